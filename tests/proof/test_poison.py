"""What nobody wrote is never read: pages are full of NaN from each hand-out until they are written.

So freed and evicted pages, the unread tail of a sequence's last page and LR slots that nobody
filled are all poisoned; an answer that depended on one of them would be NaN.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.adapters.factory import make_adapter
from tests.engine.models import prompt_of, tiny_model

from lragent.cache.pool import HandedOut, PagePool
from lragent.engine import Engine, SamplingParams
from lragent.sharing import Policy

PARAMS = SamplingParams(max_tokens=6, ignore_eos=True, logprobs=0)
PAGE = 8
CUDA = pytest.param(
    "cuda",
    marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Ranks below the slots' width, and an adapter without a cached term."""
    root, model = tmp_path_factory.mktemp("poison"), tiny_model()
    plan = make_adapter(root / "plan", model, rank=4, seed=1)
    return {
        "plan": plan,
        "act": make_adapter(root / "act", model, rank=4, seed=2, share_a_with=plan),
        "other": make_adapter(root / "other", model, rank=3, seed=3),
        "queries": make_adapter(root / "queries", model, rank=2, seed=4, targets=("q_proj",)),
    }


def requests(engine: Engine) -> Iterator[Any]:
    """Five rounds of a mixed batch on prompts of common beginnings, in more pages than there are;
    the second round reads what the first one left."""
    names = ("plan", "act", "other", "queries", None)
    for turn, seed in enumerate((0, 0, 1, 2, 0)):
        yield [
            engine.submit(
                [*prompt_of(20, seed), *prompt_of(3 + 5 * i, 50 + i)],
                adapter=names[(i + turn) % len(names)],
                sampling_params=PARAMS,
            )
            for i in range(len(names))
        ]


def run(folders: dict[str, Path], policy: Policy, device: str) -> list[tuple[Any, ...]]:
    with Engine(
        (tiny_model(), None), folders, policy, page_size=PAGE, device=device,
        dtype="float32", kv_bytes=120_000, max_num_batched_tokens=48, debug=True,
    ) as engine:  # fmt: skip
        done = [r.result() for batch in requests(engine) for r in batch]
        stats = engine.stats()
        assert stats.evictions
        assert stats.total.reused_tokens
    return [(c.token_ids, [entry.logprob for entry in c.logprobs]) for c in done]


@pytest.mark.parametrize("device", ["cpu", CUDA])
@pytest.mark.parametrize("policy", list(Policy))
def test_pages_hold_nothing_before_they_are_written(
    folders: dict[str, Path], policy: Policy, device: str, monkeypatch: pytest.MonkeyPatch
):
    clean = run(folders, policy, device)
    engines: list[Engine] = []
    hand_out, start = PagePool.hand_out, Engine.__init__

    def poisoned(pool: PagePool, *args: Any) -> HandedOut:
        handed = hand_out(pool, *args)
        ids = torch.tensor([page.id for page in handed.pages], device=device)
        for views in engines[-1]._runner.storage.views:
            for part in (views.k, views.v, views.lr):
                if part is not None:
                    part[ids] = torch.nan
        return handed

    def started(engine: Engine, *args: Any, **options: Any) -> None:
        start(engine, *args, **options)
        engines.append(engine)

    monkeypatch.setattr(PagePool, "hand_out", poisoned)
    monkeypatch.setattr(Engine, "__init__", started)
    assert run(folders, policy, device) == clean
