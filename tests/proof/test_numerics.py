"""The errors of each policy by layer are no larger than the recorded ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import numerics

RECORDED = json.loads(numerics.FILE.read_text())["relative_errors_by_layer"]
ROUNDING = 1e-5  # of values in fp32 that are the same, computed another way


@pytest.mark.parametrize("model", ["tiny", "smollm2"])
def test_errors_do_not_grow(model: str, tmp_path: Path):
    found = numerics.tiny(tmp_path) if model == "tiny" else numerics.smollm2()
    assert set(found) == set(RECORDED[model])
    for policy, parts in RECORDED[model].items():
        for part, layers in parts.items():
            for layer, recorded in enumerate(layers):
                error = found[policy][part][layer]
                assert error <= 1.1 * recorded + ROUNDING, (policy, part, layer)


def test_what_the_policies_promise():
    """As recorded: what is exact in all layers, and what in the first one."""
    for errors in RECORDED.values():
        for exact in ("isolated", "neutral, alone"):
            assert max(*errors[exact]["k"], *errors[exact]["v"]) < ROUNDING
        for policy in ("neutral", "base", "base+lr", "full"):
            assert errors[policy]["k"][0] < ROUNDING
        for policy in ("neutral", "base", "base+lr"):
            assert errors[policy]["v"][0] < ROUNDING
        assert errors["full"]["v"][0] > ROUNDING
