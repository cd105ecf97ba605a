"""Similarities against what single layers compute by hand."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from tests.adapters.factory import make_adapter, tiny_llama
from tests.engine.models import prompt_of

from lragent.evaluation import EvaluationError
from lragent.evaluation.similarity import Quantity, Reads, Similarity, similarities

CONTEXTS = [prompt_of(70, 1, 64), prompt_of(9, 2, 64)]
Cells = dict[tuple[Reads, Quantity, int | None, int | None], Similarity]


@pytest.fixture(scope="module")
def cells(group: dict[str, Path]) -> Cells:
    found = similarities(tiny_llama(), group, CONTEXTS)
    return {(s.reads, s.quantity, s.layer, s.depth): s for s in found}


def test_the_base_model_leaves_one_cache_for_all(cells: Cells):
    for quantity in (Quantity.BASE_V, Quantity.LR, Quantity.K):
        assert cells[Reads.BASE_MODEL, quantity, None, None].cosine == pytest.approx(1, abs=1e-6)
    assert cells[Reads.BASE_MODEL, Quantity.TERM, None, None].cosine < 0.9
    assert cells[Reads.BASE_MODEL, Quantity.FULL_V, None, None].cosine < 0.999


def test_agents_differ_from_the_second_layer_on(cells: Cells):
    for quantity in (Quantity.BASE_V, Quantity.K, Quantity.LR):
        assert cells[Reads.ITSELF, quantity, 0, None].cosine == pytest.approx(1, abs=1e-6)
        assert cells[Reads.ITSELF, quantity, 1, None].cosine < 0.99
    assert cells[Reads.ITSELF, Quantity.TERM, 0, None].cosine < 0.9


def test_tokens_are_told_apart_by_depth(cells: Cells):
    pairs = 3
    count = {d: cells[Reads.ITSELF, Quantity.K, None, d].tokens for d in (None, 0, 64)}
    assert count == {None: 2 * pairs * 79, 0: 2 * pairs * (64 + 9), 64: 2 * pairs * 6}
    assert (Reads.ITSELF, Quantity.K, None, 256) not in cells


def test_full_values_are_those_of_peft(cells: Cells, group: dict[str, Path]):
    """The output of PEFT's own v_proj of each layer, on each agent's own hidden states."""
    caught: dict[str, list[torch.Tensor]] = {}
    for name, folder in group.items():
        model: Any = PeftModel.from_pretrained(tiny_llama(), str(folder)).eval()
        own = caught[name] = []
        for layer in model.get_base_model().model.layers:
            layer.self_attn.v_proj.register_forward_hook(
                lambda _m, _a, out, own=own: own.append(out)
            )
        with torch.inference_mode():
            model(input_ids=torch.tensor([CONTEXTS[0]]))
    both = [
        torch.nn.functional.cosine_similarity(caught[a][1][0], caught[b][1][0], dim=-1)
        for a, b in combinations(group, 2)
    ]
    alone = similarities(tiny_llama(), group, CONTEXTS[:1])
    cell = next(
        s for s in alone
        if (s.reads, s.quantity, s.layer, s.depth) == (Reads.ITSELF, Quantity.FULL_V, 1, None)
    )  # fmt: skip
    assert cell.cosine == pytest.approx(torch.stack(both).mean().item(), abs=1e-5)


def test_what_cannot_be_compared(group: dict[str, Path], tmp_path: Path):
    with pytest.raises(EvaluationError, match="at least two"):
        similarities(tiny_llama(), {"plan": group["plan"]}, CONTEXTS)
    other = make_adapter(tmp_path / "q", tiny_llama(), targets=("q_proj",))
    with pytest.raises(EvaluationError, match="no LoRA on v_proj"):
        similarities(tiny_llama(), {"a": other, "b": other}, CONTEXTS)
