"""What the comparison of the plugin with other engines counts as agreement."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from benchmarks.common.shapes import TINY, write_config
from safetensors.numpy import load_file
from tests.gpu.agreement.cases import PAGE, PLUGIN_CASES, STOCK_CASES, Case, settings_of
from tests.gpu.agreement.choices import Choice
from tests.gpu.agreement.compare import (
    Spread,
    answers_from_json,
    same_hits,
    same_places,
    spread,
    tolerance,
    until_they_part,
)
from tests.gpu.agreement.everywhere import (
    BESIDE,
    EVERYWHERE,
    WITHOUT,
    ask_everywhere,
    ask_without,
    pairs_everywhere,
    write_everywhere,
)
from tests.gpu.agreement.everywhere import NEEDED as NEEDED_EVERYWHERE
from tests.gpu.agreement.program import (
    LENGTH,
    NEEDED,
    TOKENS,
    Answers,
    Ask,
    Step,
    forced,
    free,
    replay,
    rotated,
    steps_from_json,
)
from tests.gpu.agreement.report import rows_of

TINY_LENGTH = 200
IDS = [7 + n % 83 for n in range(TINY_LENGTH + NEEDED)]


class FakeEngine:
    """Chooses by the sum of the prompt and the agent; `shift` moves every log-probability."""

    def __init__(self, shift: float = 0.0, strange: int | None = None):
        self.shift = shift
        self.strange = strange
        self.batches: list[list[Ask]] = []

    def ask(
        self, asks: Sequence[Ask], tokens: int, salt: str
    ) -> tuple[list[list[Choice]], list[int]]:
        self.batches.append(list(asks))
        rows = []
        for agent, prompt in asks:
            row = []
            code = 9 if agent is None else agent
            code += agent is not None and agent == self.strange
            for _ in range(tokens):
                token = (sum(prompt) + code) % 90
                logprob = -0.1 - token / 100 + self.shift
                other = -4.0 - code / 3 + self.shift
                row.append(Choice(token, logprob, {token: logprob, 99: other}))
                prompt = [*prompt, token]
            rows.append(row)
        return rows, [(len(prompt) - 1) // PAGE * PAGE for _, prompt in asks]


def answers_of(engine: FakeEngine) -> dict[str, Any]:
    """As a vLLM process gives them."""
    text = replay(engine, forced(IDS, TINY_LENGTH), "forced")
    steps, own = free(engine, IDS, TINY_LENGTH)
    return {
        "forced": asdict(text),
        "steps": [asdict(step) for step in steps],
        "free": asdict(own),
        "everywhere": ask_everywhere(engine, IDS, TINY_LENGTH),
        "without": ask_without(engine, IDS, TINY_LENGTH),
    }


def embedded_of(engine: FakeEngine, served: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """As the embedded engine's process gives them."""
    text = forced(IDS, TINY_LENGTH)
    return {
        "forced": asdict(replay(engine, text, "forced")),
        "wide": asdict(replay(engine, text, "wide", wide=True)),
        "rotated": asdict(replay(engine, rotated(text), "rotated")),
        "replays": {
            name: asdict(replay(engine, steps_from_json(data["steps"]), name))
            for name, data in served.items()
        },
    }


@pytest.mark.parametrize("length", [LENGTH, TINY_LENGTH])
@pytest.mark.parametrize("page", [16, 32])
def test_no_prompt_is_a_whole_number_of_pages(length: int, page: int):
    steps = forced(list(range(length + NEEDED)), length)
    assert all(len(prompt) % page for step in steps for _, prompt in step.asks)
    assert [[agent for agent, _ in step.asks] for step in steps] == [
        [0], [1], [2], [0], [0, 1, 2, None],
    ]  # fmt: skip


def test_each_agent_gets_the_context_and_the_tokens_of_the_one_before():
    steps = forced(IDS, TINY_LENGTH)
    for before, after in pairwise(steps):
        context = [*before.asks[0][1], *before.tokens[0]]
        assert all(prompt[: len(context)] == context for _, prompt in after.asks)
        assert all(len(prompt) > len(context) for _, prompt in after.asks)


@pytest.mark.parametrize("wide", [False, True])
def test_a_replay_of_own_tokens_gives_them_again(wide: bool):
    steps, own = free(FakeEngine(), IDS, TINY_LENGTH)
    engine = FakeEngine()
    again = replay(engine, steps, "again", wide)
    assert again == own
    assert len(engine.batches) == len(steps) * (2 if wide else TOKENS)
    assert answers_from_json(asdict(own)) == own


def test_engines_are_compared_until_their_tokens_part():
    steps, own = free(FakeEngine(), IDS, TINY_LENGTH)
    other_steps, other = free(FakeEngine(strange=1), IDS, TINY_LENGTH)
    pairs = list(until_they_part(steps, own, other_steps, other))
    assert len(pairs) == TOKENS + 1  # the second agent's first token is another one
    assert [a.token == b.token for a, b in pairs] == [True] * TOKENS + [False]


def test_spread_is_over_tokens_that_both_name():
    one = Choice(1, -0.5, {1: -0.5, 2: -1.5, 3: -3.0})
    two = Choice(2, -1.0, {1: -1.2, 2: -1.0, 4: -3.0})
    found = spread([(one, two), (one, one)])
    assert found.positions == 2
    assert found.max == pytest.approx(0.7)
    assert found.mean == pytest.approx((0.7 + 0.5) / 5)  # two tokens, then three
    assert found.equal == 0.5


def test_a_choice_that_the_other_does_not_name_counts():
    one = Choice(1, -0.2, {1: -0.2, 9: -4.2})
    two = Choice(2, -0.3, {2: -0.3, 9: -4.2})
    assert spread([(one, two)]).max == pytest.approx(4.0)


def test_nan_is_never_tolerable():
    one = Choice(1, -0.5, {1: -0.5})
    nan = Choice(1, math.nan, {1: math.nan})
    assert not spread([(one, nan)]).within((100.0, 100.0))
    with pytest.raises(ValueError, match="no places"):
        spread([])


def test_tolerance_is_twice_the_yardstick_and_the_largest_floor():
    floors = [Spread(1, 0.1, 0.03, 1.0), Spread(1, 0.3, 0.01, 1.0)]
    assert tolerance(Spread(1, 0.5, 0.05, 1.0), floors) == pytest.approx((1.3, 0.13))
    low, mean = tolerance(Spread(1, 0.0, 0.0, 1.0), [])
    assert (low, mean) == (1e-5, 1e-5)


def test_hits_are_compared_in_whole_pages():
    assert same_hits(Answers([], [[32, 48]]), Answers([], [[33, 63]]), PAGE)
    assert not same_hits(Answers([], [[32, 32]]), Answers([], [[33, 63]]), PAGE)


CASES = [
    *STOCK_CASES,
    *(c for c in PLUGIN_CASES if c.policy in ("isolated", "base+lr") and c.mode != "piecewise"),
]


def test_settings_by_mode():
    def graphs(mode: str) -> Any:
        settings = settings_of(Case("base", mode, "v2"))
        compiled = settings.get("compilation_config", {})
        return settings.get("enforce_eager"), compiled.get("cudagraph_mode")

    assert graphs("eager") == (True, None)
    assert graphs("piecewise") == (None, "PIECEWISE")
    assert graphs("full") == (None, "FULL_AND_PIECEWISE")


def judged(wrong: FakeEngine | None) -> list[dict[str, Any]]:
    """Rows when all engines round alike, but for one engine of the plugin."""
    name = "base+lr, eager, v1"
    noise = {case.name: FakeEngine(1e-3 * (n % 2)) for n, case in enumerate(CASES)}
    served = {case: answers_of(engine) for case, engine in noise.items()}
    if wrong is not None:
        served[name] = answers_of(wrong)
    of = {
        policy: {n: d for n, d in served.items() if n.startswith(names)}
        for policy, names in (("isolated", ("isolated", "stock")), ("base+lr", ("base+lr",)))
    }
    embedded = {policy: embedded_of(FakeEngine(5e-4), part) for policy, part in of.items()}
    return rows_of(CASES, served, embedded)


def test_engines_that_round_differently_agree():
    rows = judged(None)
    assert all(row["holds"] for row in rows if "holds" in row)
    kinds = [row["kind"] for row in rows]
    assert kinds.count("embedded") == 8
    assert kinds.count("stock") == 4
    assert kinds.count("everywhere") == 8
    assert kinds.count("control") == 1 + len(WITHOUT)
    assert kinds.count("mode") == 6


@pytest.mark.parametrize("wrong", [FakeEngine(0.1), FakeEngine(strange=1)], ids=["shift", "agent"])
def test_a_wrong_engine_is_named(wrong: FakeEngine):
    bad = [row for row in judged(wrong) if not row.get("holds", True)]
    assert bad
    assert {row["subject"] for row in bad} == {"base+lr, eager, v1"}


def test_lost_hits_are_named():
    name = CASES[0].name
    data = answers_of(FakeEngine())
    data["free"]["cached"][1] = [0]
    case = replace(CASES[0], policy="isolated")
    embedded = {"isolated": embedded_of(FakeEngine(), {case.name: data})}
    rows = rows_of([CASES[0], case], {name: answers_of(FakeEngine()), case.name: data}, embedded | {
        "isolated": {**embedded["isolated"], "replays": {
            **embedded["isolated"]["replays"],
            name: asdict(replay(FakeEngine(), steps_from_json(data["steps"]), name)),
        }},
    })  # fmt: skip
    [row] = [row for row in rows if row["kind"] == "embedded"]
    assert not row["same_hits"]
    assert not row["holds"]


def test_without_stock_nothing_holds():
    plugin = [case for case in CASES if case.policy == "isolated"]
    served = {case.name: answers_of(FakeEngine()) for case in plugin}
    embedded = {"isolated": embedded_of(FakeEngine(), served)}
    rows = rows_of(plugin, served, embedded)
    assert not any(row["holds"] for row in rows if "holds" in row)


def test_same_places_keeps_the_order():
    steps = [Step([(0, [1, 2])], [[3] * TOKENS])]
    a, b = (replay(FakeEngine(shift), steps, "") for shift in (0.0, 0.25))
    assert [y.logprob - x.logprob for x, y in same_places(a, b)] == pytest.approx([0.25] * TOKENS)


def test_an_adapter_of_all_modules_is_compared_without_the_agents_beside_it():
    assert NEEDED_EVERYWHERE <= NEEDED
    stock, same, agent, wide = (
        ask_everywhere(FakeEngine(strange=strange), IDS, TINY_LENGTH)
        for strange in (None, None, BESIDE[2], BESIDE[0])
    )
    for other, equal in ((same, True), (agent, True), (wide, False)):
        pairs = pairs_everywhere(stock, other)
        assert len(pairs["text"]) == 3 * TOKENS
        assert all(a.token == b.token for part in pairs.values() for a, b in part) == equal


def test_an_adapter_of_all_modules_has_weights_in_each(tmp_path: Path):
    write_config(tmp_path / "model", TINY)
    folders = write_everywhere(tmp_path, tmp_path / "model", 4)
    tensors = load_file(folders[EVERYWHERE] / "adapter_model.safetensors")
    assert len(tensors) == TINY.layers * 7 * 2
    for number, modules in WITHOUT.values():
        left = load_file(folders[number] / "adapter_model.safetensors")
        assert {name.split(".")[-3] for name in tensors.keys() - left.keys()} == set(modules)
        assert all((tensors[name] == tensor).all() for name, tensor in left.items())
        config = json.loads((folders[number] / "adapter_config.json").read_text())
        assert len(config["target_modules"]) == 7 - len(modules)
    place = "base_model.model.model.layers.1"
    shapes = {
        name.removeprefix(f"{place}."): t.shape for name, t in tensors.items() if place in name
    }
    assert shapes["mlp.down_proj.lora_A.weight"] == (4, 256)
    assert shapes["self_attn.o_proj.lora_A.weight"] == (4, TINY.heads * TINY.head_dim)
    assert shapes["self_attn.k_proj.lora_B.weight"] == (TINY.kv_heads * TINY.head_dim, 4)
    assert all(tensor.any(axis=1).all() for tensor in tensors.values())


def test_a_control_that_answers_the_same_is_named():
    served = {case.name: answers_of(FakeEngine(1e-3 * (n % 2))) for n, case in enumerate(CASES)}
    data = served[CASES[0].name]
    text = answers_from_json(data["everywhere"]["text"])
    data["without"]["o_proj"] = asdict(Answers(text.choices[:1], text.cached[:1]))
    stock = {name: d for name, d in served.items() if name.startswith(("isolated", "stock"))}
    rows = rows_of(CASES, served, {"isolated": embedded_of(FakeEngine(5e-4), stock)})
    [row] = [row for row in rows if not row.get("holds", True)]
    assert row["subject"] == "everywhere but o_proj"
