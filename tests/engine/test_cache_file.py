"""The cache of a prompt goes to a file and comes back, for the same model and adapters only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from tests.engine.models import prompt_of, tiny_model

from lragent.engine import Engine, SamplingParams
from lragent.engine.errors import BudgetError, CacheFileError

PROMPT = prompt_of(70)
WHOLE = 64
PARAMS = SamplingParams(max_tokens=8, ignore_eos=True)


@pytest.fixture
def saved(shared_a: dict[str, Path], tmp_path: Path) -> Path:
    with Engine((tiny_model(), None), shared_a, "base+lr") as engine:
        assert engine.save_cache(tmp_path / "new" / "pages", PROMPT, adapter="plan") == WHOLE
    return tmp_path / "new" / "pages"


@pytest.mark.parametrize("sharing", ["isolated", "base+lr", "base", "full", "neutral"])
@pytest.mark.parametrize("kind", ["shared_a", "ordinary"])
def test_a_prompt_comes_back(
    request: pytest.FixtureRequest, tmp_path: Path, sharing: str, kind: str
):
    adapters = request.getfixturevalue(kind)
    # under `base` an agent fills its own slot alone
    readers = ["plan"] if sharing in ("isolated", "base") else ["plan", "act"]

    def answers(engine: Engine) -> list[tuple[int, ...]]:
        done = [engine.generate(PROMPT, PARAMS, adapter=name) for name in readers]
        assert {answer.cached_tokens for answer in done} == {expected}
        return [answer.token_ids for answer in done]

    with Engine((tiny_model(), None), adapters, sharing) as engine:
        kept = engine.save_cache(tmp_path / "pages", PROMPT, adapter="plan")
        expected = engine.generate(PROMPT, PARAMS, adapter="plan").cached_tokens
        assert expected == kept == WHOLE
        warm = answers(engine)
    with Engine((tiny_model(), None), adapters, sharing) as engine:
        assert engine.load_cache(tmp_path / "pages", adapter="plan") == WHOLE
        engine.check_integrity()
        assert answers(engine) == warm
        assert engine.load_cache(tmp_path / "pages", adapter="plan") == WHOLE  # no harm
        assert answers(engine) == warm


def test_the_base_model_and_a_half_cached_prompt(tmp_path: Path):
    with Engine((tiny_model(), None)) as engine:
        cold = engine.generate(PROMPT, PARAMS, cache_salt="other").token_ids
        engine.save_cache(tmp_path / "pages", PROMPT)
    with Engine((tiny_model(), None)) as engine:
        engine.generate(PROMPT[:40], PARAMS)
        assert engine.load_cache(tmp_path / "pages") == WHOLE
        done = engine.generate(PROMPT, PARAMS)
        assert (done.cached_tokens, done.token_ids) == (WHOLE, cold)


def test_slots_that_the_pages_lack_are_filled(shared_a: dict[str, Path], saved: Path):
    """Pages that another reader left without a slot get it from the file."""
    with Engine((tiny_model(), None), shared_a, "base+lr") as engine:
        group = engine._registry.binding("plan")
        assert group.fills
        engine.load_cache(saved, adapter="plan")
        for page in engine._cache._pool.pages:
            if page.key is not None:
                engine._cache._valid_slots -= page.valid.bit_count()
                page.valid = 0
        assert engine.load_cache(saved, adapter="plan") == WHOLE
        assert engine.generate(PROMPT, PARAMS, adapter="plan").cached_tokens == WHOLE


def test_it_is_refused_for_anything_else(
    shared_a: dict[str, Path], ordinary: dict[str, Path], saved: Path, tmp_path: Path
):
    def refused(message: str, engine: Engine, **options: Any) -> None:
        with engine, pytest.raises(CacheFileError, match=message):
            engine.load_cache(saved, **{"adapter": "plan", **options})

    refused("cache_salt", Engine((tiny_model(), None), shared_a, "base+lr"), cache_salt="x")
    refused("base model;", Engine((tiny_model(seed=1), None), shared_a, "base+lr"))
    refused("page layout", Engine((tiny_model(), None), shared_a, "base+lr", page_size=8))
    refused(
        "base model and dtype", Engine((tiny_model(), None), shared_a, "base+lr", dtype="bfloat16")
    )
    refused("sharing group", Engine((tiny_model(), None), ordinary, "base+lr"))
    refused("adapter or sharing group and sharing policy", Engine((tiny_model(), None), shared_a))
    with Engine((tiny_model(), None), shared_a) as engine:
        saved = tmp_path / "alone"
        engine.save_cache(saved, PROMPT, adapter="plan")
        engine.reload_adapter("plan", shared_a["act"])
        refused("adapter or sharing group;", engine)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda t, m: t["tokens"].__setitem__(3, 50), "tokens were changed"),
        (lambda t, m: t.pop("tokens"), "damaged"),
        (lambda t, m: t.update(tokens=torch.zeros(0, dtype=torch.int64)), "damaged"),
        (lambda t, m: t.pop("1.k"), "damaged: its tensors"),
        (lambda t, m: t.update({"1.k": t["1.k"][:1].clone()}), "damaged: its tensors"),
        (lambda t, m: t["0.v"].__setitem__((0, 0, 0, 0), torch.nan), "NaN or Inf"),
        (lambda t, m: m.pop("slots"), "damaged"),
        (lambda t, m: m.update(slots="5"), "damaged"),
        (lambda t, m: m.update(format="lragent-cache/0"), "no saved cache of this version"),
    ],
)
def test_damaged_files(shared_a: dict[str, Path], saved: Path, damage: Any, message: str):
    with safe_open(saved, framework="pt") as file:
        metadata = dict(file.metadata())
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    damage(tensors, metadata)
    save_file(tensors, saved, metadata)
    with Engine((tiny_model(), None), shared_a, "base+lr") as engine:
        with pytest.raises(CacheFileError, match=message):
            engine.load_cache(saved, adapter="plan")
        saved.write_bytes(saved.read_bytes()[:-9])
        with pytest.raises(CacheFileError, match="cannot be read"):
            engine.load_cache(saved, adapter="plan")
        with pytest.raises(CacheFileError, match="cannot be read"):
            engine.load_cache(saved.parent / "nowhere", adapter="plan")
        assert engine.stats().pages["leased"] == 0


def test_too_short_and_too_long(shared_a: dict[str, Path], saved: Path, tmp_path: Path):
    page = 3 * (2 * 2 * 8 * 16 + 16 * 4) * 4
    with Engine((tiny_model(), None), shared_a, "base+lr", kv_bytes=6 * page) as engine:
        with pytest.raises(ValueError, match="not one whole page of 16 tokens"):
            engine.save_cache(tmp_path / "short", PROMPT[:15], adapter="plan")
        running = engine.submit(prompt_of(60, 5), PARAMS, adapter="act")
        engine.step()
        with pytest.raises(BudgetError, match="raise kv_bytes"):
            engine.load_cache(saved, adapter="plan")
        assert len(running.result().token_ids) == 8
        assert engine.load_cache(saved, adapter="plan") == WHOLE
    assert not (tmp_path / "short").exists()


def test_an_engine_says_what_it_is(shared_a: dict[str, Path]):
    with Engine((tiny_model(), None), shared_a, kv_bytes=10**6) as engine:
        text = repr(engine)
        for part in ("tiny/llama", "'plan', 'act'", "pages of 16 tokens", "float32 on cpu"):
            assert part in text
