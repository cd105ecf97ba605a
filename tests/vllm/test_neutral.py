"""`neutral` in vLLM, against a dense forward pass that knows neither pages nor order."""

# pyright: reportMissingImports=false, reportAttributeAccessIssue=false

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.adapters.factory import make_adapter
from tests.engine.models import FAMILIES, generate, prompt_of, tiny_model
from tests.engine.neutral_jobs import ATOL, Judge, Story, mixed_adapters
from tests.engine.tokenizer import byte_tokenizer
from tests.vllm.conftest import LINEAR
from tests.vllm.serving import PAGE, Ask, Served, folders, sharing

from lragent.adapters.errors import AdapterError
from lragent.agents.demo import demo_adapters
from lragent.engine.loader import load_model
from lragent.smollm2 import NAME, convert
from lragent.vllm.core import block_validity, request_keys
from lragent.vllm.messages import NEVER
from lragent.vllm.worker.state import WorkerState

ACTING = (7, 8)
ROUNDS = 8
LONG = pytest.param(100, marks=pytest.mark.long)
"""About 500 requests."""


@dataclass(frozen=True)
class Entry:
    """A generated token's log-probability, as the embedded engine's completions have it."""

    logprob: float


@dataclass(frozen=True)
class Got:
    """An answer with what `Judge` looks at."""

    token_ids: tuple[int, ...]
    logprobs: list[Entry]
    cached_tokens: int


def ask(served: Served, *asks: Ask, lengths: Sequence[int]) -> list[Got]:
    """Answers with log-probabilities to requests that come at the same time."""
    from vllm import SamplingParams

    outputs = served.llm.generate(
        [{"prompt_token_ids": list(a.prompt)} for a in asks],
        [
            SamplingParams(
                temperature=0, max_tokens=n, logprobs=0, ignore_eos=True, detokenize=False
            )
            for n in lengths
        ],
        lora_request=[served.lora(a.name) for a in asks],
        use_tqdm=False,
    )
    answers = []
    for output in outputs:
        tokens, found = tuple(output.outputs[0].token_ids), output.outputs[0].logprobs
        entries = [Entry(at[token].logprob) for at, token in zip(found, tokens, strict=True)]
        answers.append(Got(tokens, entries, output.num_cached_tokens))
    return answers


def check(served: Served, judge: Judge, name: str | None, prompt: Sequence[int]) -> Got:
    """Ask one request, and compare it with the reference."""
    [got] = ask(served, Ask(name, prompt), lengths=[8])
    judge.check(name, prompt, got)  # type: ignore[arg-type]
    return got


def tell(served: Served, judge: Judge, story: Story, rounds: int, longest: int = 60) -> None:
    """Rounds of two to eight requests of the adapters and the base model, each checked.

    Answers have up to `longest` tokens.
    """
    names = (*served.paths, None)
    for _ in range(rounds):
        count = story.rng.randint(2, 8)
        asks = [Ask(story.rng.choice(names), story.prompt(story.rng.randrange(30)))
                for _ in range(count)]  # fmt: skip
        lengths = [story.rng.randint(1, longest) for _ in asks]
        for a, got in zip(asks, ask(served, *asks, lengths=lengths), strict=True):
            judge.check(a.name, a.prompt, got)  # type: ignore[arg-type]
            story.wrote(a.prompt, got.token_ids)
    served.plugin.validity.check_integrity(())


@pytest.fixture(scope="module")
def agents(root: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Adapters of other ranks, targets and A; the last one acts from tokens of its own on."""
    model = tiny_model()
    late = make_adapter(
        tmp_path_factory.mktemp("neutral") / "late", model, rank=4, seed=8, targets=LINEAR, std=0.1
    )
    sidecar = {"schema": 1, "group": "g", "role": "late", "a_digest": {}, "acting_tokens": ACTING}
    (late / "lragent.json").write_text(json.dumps(sidecar))
    return {**folders(root, "own"), "late": late}


def tight_engine(root: Path, agents: dict[str, Path]) -> Served:
    """Steps of 48 tokens at most, and 30 blocks."""
    return Served(
        root / "llama",
        agents,
        sharing("neutral", agents, key_lora=True),
        max_num_batched_tokens=48,
        max_model_len=256,
        num_gpu_blocks_override=31,
    )


@pytest.fixture(scope="module")
def tight(root: Path, agents: dict[str, Path]) -> Iterator[Served]:
    with tight_engine(root, agents) as served:
        yield served


@pytest.fixture(scope="module")
def judge(agents: dict[str, Path]) -> Judge:
    return Judge(tiny_model(), agents)


# Before `tight` starts: a process has one engine at a time.
@pytest.mark.parametrize("rounds", [3, LONG])
@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "llama"])
def test_mixed_adapters_of_the_other_families(family: str, rounds: int, tmp_path: Path):
    """Ranks of 2 to 16, any targets, rsLoRA, ranks and alphas by pattern."""
    model = tiny_model(family, windows=False)
    model.save_pretrained(tmp_path / "model")
    byte_tokenizer().save_pretrained(tmp_path / "model")
    adapters = mixed_adapters(tmp_path, model)
    option = sharing("neutral", adapters, key_lora=family != "qwen3")
    with Served(
        tmp_path / "model",
        adapters,
        option,
        max_lora_rank=16,
        max_num_batched_tokens=48,
        max_model_len=256,
        num_gpu_blocks_override=31,
    ) as served:
        tell(served, Judge(model, adapters), Story(random.Random(family), 96, 150), rounds)
        assert served.plugin.validity.counters.reused_tokens > 50


# Before `tight` starts, too.
@pytest.mark.every_version
def test_target_modules_change_no_answer(root: Path):
    """With ``--lora-target-modules`` only these have LoRA, and adapters of others are refused."""
    adapters = folders(root, "own")
    context = prompt_of(5 * PAGE + 3)
    found: list[list[Got]] = []
    with_lora = []
    for more in ({}, {"lora_target_modules": ["q_proj", "v_proj"]}):
        option = sharing("neutral", adapters)
        with Served(root / "llama", adapters, option, **more) as served:
            answers = ask(served, Ask("plan", context), lengths=[12])
            names = ("act", "reflect", "plan", None)
            asks = [Ask(name, [*context, n]) for n, name in enumerate(names)]
            found.append([*answers, *ask(served, *asks, lengths=[12] * len(asks))])
            model = served.core.model_executor.driver_worker.worker.model_runner.model
            layers = {
                name.rsplit(".", 1)[-1]
                for name, module in model.named_modules()
                if hasattr(module, "lora_a_stacked")
            }
            with_lora.append(layers)
            if more:
                served.ids["wide"], served.paths["wide"] = 9, str(root / "keys" / "plan")
                refused = "adapts .*o_proj.*told to leave alone; .*--lora-target-modules"
                with pytest.raises(AdapterError, match=refused):
                    served.ask(Ask("wide", context))
    assert with_lora == [{"qkv_proj", "o_proj", "gate_up_proj", "down_proj"}, {"qkv_proj"}]
    for without, having in zip(*found, strict=True):
        assert having.token_ids == without.token_ids
        assert [e.logprob for e in having.logprobs] == pytest.approx(
            [e.logprob for e in without.logprobs], abs=ATOL
        )  # where buffers begin in memory changes the order of sums
    assert [[a.cached_tokens for a in answers] for answers in found] == [[0] + [5 * PAGE] * 4] * 2


@pytest.mark.long
def test_mixed_adapters_of_a_real_model(tmp_path: Path):
    model, _ = load_model(NAME)
    adapters = demo_adapters() | mixed_adapters(tmp_path, model, std=0.15)
    members = {name: adapters[name] for name in ("plan", "act", "all", "rs")}
    with Served(
        convert(),
        members,
        sharing("neutral", members, key_lora=True),
        max_lora_rank=16,
        max_num_batched_tokens=64,
        max_model_len=256,
        num_gpu_blocks_override=31,
    ) as served:
        # Alone on an empty cache one token of these is 3e-4 from the reference; most are 2e-5.
        judge = Judge(model, members, atol=1e-3)
        tell(served, judge, Story(random.Random(72), 40_000, 120), 100, 20)
        assert served.plugin.validity.counters.reused_tokens > 1_000


@pytest.mark.every_version
@pytest.mark.parametrize("rounds", [ROUNDS, LONG])
def test_any_order_gives_what_the_reference_gives(
    rounds: int, tight: Served, judge: Judge, monkeypatch: pytest.MonkeyPatch
):
    """Whoever came before, with chunks, eviction and preemption."""
    tight.reset()
    preempted = tight.preempted(monkeypatch)
    counters = tight.plugin.validity.counters
    reused = counters.reused_tokens
    tell(tight, judge, Story(random.Random(3), 96, 150, ACTING), rounds)
    assert preempted
    assert counters.reused_tokens - reused > 300


def test_agents_and_the_base_model_read_one_context(tight: Served, judge: Judge):
    """Blocks that end before the last prompt token are shared, whoever came first."""
    prompt = prompt_of(6 * PAGE)
    for order in (("plan", "act", None, "reflect"), (None, "reflect", "act", "plan")):
        tight.reset()
        for place, name in enumerate(order):
            got = check(tight, judge, name, prompt)
            assert got.cached_tokens == (5 * PAGE if place else 0), (order, name)
            if name is None:
                assert list(got.token_ids) == generate(tiny_model(), prompt, 8).tokens


def test_blocks_of_a_turn_are_private(tight: Served, judge: Judge):
    """What an adapter wrote is context in the next prompt, and the base model reads it."""
    tight.reset()
    prompt = prompt_of(2 * PAGE)
    got = check(tight, judge, "plan", prompt)
    assert tight.plugin.report()["pages"]["cached"] == 1
    longer = [*prompt, *got.token_ids, *prompt_of(PAGE, 3)]
    assert check(tight, judge, "plan", longer).cached_tokens == PAGE
    assert check(tight, judge, None, longer).cached_tokens == 3 * PAGE


def test_several_answers_of_one_prompt(tight: Served, judge: Judge):
    """They share the context's blocks, and each has a turn of its own."""
    from vllm import SamplingParams

    tight.reset()
    prompt = prompt_of(5 * PAGE + 3)
    expected = check(tight, judge, "act", prompt).token_ids
    greedy = SamplingParams(
        n=3, top_k=1, temperature=1, max_tokens=8, ignore_eos=True, detokenize=False
    )
    [found] = tight.llm.generate(
        [{"prompt_token_ids": prompt}], greedy, lora_request=tight.lora("act"), use_tqdm=False
    )
    assert [tuple(answer.token_ids) for answer in found.outputs] == [expected] * 3
    assert found.num_cached_tokens == 5 * PAGE


def test_streamed_tokens(tight: Served, judge: Judge):
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    tight.reset()
    prompt = prompt_of(3 * PAGE + 7)
    params = SamplingParams(
        temperature=0, max_tokens=8, ignore_eos=True, detokenize=False,
        output_kind=RequestOutputKind.DELTA,
    )  # fmt: skip
    engine = tight.llm.llm_engine
    engine.add_request("s", {"prompt_token_ids": prompt}, params, lora_request=tight.lora("plan"))
    parts = []
    while engine.has_unfinished_requests():
        parts += [tuple(output.outputs[0].token_ids) for output in engine.step()]
    assert len(parts) == 8
    assert sum(parts, ()) == check(tight, judge, "plan", prompt).token_ids


def test_a_steady_decode_is_laid_out_once(
    tight: Served, judge: Judge, monkeypatch: pytest.MonkeyPatch
):
    """All steps but that of the prompt and the first one after it find their layout."""
    kept: list[bool] = []
    resolve = WorkerState.resolve
    monkeypatch.setattr(WorkerState, "resolve", lambda state: kept.append(resolve(state)))
    tight.reset()
    check(tight, judge, "plan", prompt_of(2 * PAGE + 5))
    assert kept == [False, False] + [True] * 6


def test_acting_tokens_of_a_sidecar(tight: Served, judge: Judge):
    """The adapter acts from the last occurrence on; without one from the prompt's last token."""
    tight.reset()
    head, tail = prompt_of(44, 1), prompt_of(23, 2)
    for prompt in ([*head, *ACTING, *tail], [*ACTING, *head, *ACTING], [*ACTING, *tail], head):
        check(tight, judge, "late", prompt)


def test_other_weights_on_the_same_a_keep_the_blocks(root: Path, tmp_path: Path):
    """A new B changes no block; a new A finds its slot empty and computes the context once."""
    model, adapters = tiny_model(), folders(root, "shared")
    same = make_adapter(tmp_path / "same", model, rank=4, seed=77, share_a_with=adapters["plan"])
    other = make_adapter(tmp_path / "other", model, rank=4, seed=78)
    prompt = prompt_of(100)
    with Served(root / "llama", adapters, sharing("neutral", adapters)) as served:
        check(served, Judge(model, adapters), "act", prompt)
        for folder, cached in ((same, 96), (other, 0), (other, 96)):
            served.paths["plan"] = str(folder)
            served.ids["plan"] += 10  # the client's id for the new weights
            got = check(served, Judge(model, {"plan": folder}), "plan", prompt)
            assert got.cached_tokens == cached, folder.name
        assert check(served, Judge(model, adapters), "reflect", prompt).cached_tokens == 96


def _turn_blocks_are_published(patch: pytest.MonkeyPatch) -> None:
    for module in (block_validity, request_keys):
        patch.setattr(module, "shareable", lambda request: NEVER)


def _adapter_acts_in_the_context(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(WorkerState, "base_in_context", lambda state, adapters: adapters)


@pytest.mark.parametrize("plant", [_turn_blocks_are_published, _adapter_acts_in_the_context])
def test_a_planted_fault_is_caught(
    plant: Callable[[pytest.MonkeyPatch], None],
    root: Path,
    agents: dict[str, Path],
    judge: Judge,
    monkeypatch: pytest.MonkeyPatch,
):
    plant(monkeypatch)
    with tight_engine(root, agents) as served, pytest.raises(AssertionError):
        tell(served, judge, Story(random.Random(5), 96, 150, ACTING), ROUNDS)
