"""A bad adapter is an error of its request; the engine goes on."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.adapters.factory import WEIGHTS, edit_config, edit_tensors, make_adapter
from tests.engine.models import prompt_of, tiny_model
from tests.vllm.serving import Ask, Embedded, Served, folders, sharing
from vllm.lora.peft_helper import PEFTHelper  # pyright: ignore[reportMissingImports]

from lragent.adapters.errors import AdapterError

PROMPT = prompt_of(40)
HONOURED = hasattr(PEFTHelper, "get_rank_and_scaling")


def dora(folder: Path) -> None:
    edit_config(folder, use_dora=True)


def scaled_by_layer(folder: Path) -> None:
    edit_config(folder, alpha_pattern={"layers.1.self_attn.v_proj": 32})


def not_a_number(folder: Path) -> None:
    edit_tensors(folder, lambda tensors: {n: t * torch.nan for n, t in tensors.items()})


def pickled(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "adapter_model.bin")


def gone(folder: Path) -> None:
    shutil.rmtree(folder)


def wide(folder: Path) -> None:
    make_adapter(folder, tiny_model(), rank=12)


def activated(folder: Path) -> None:
    edit_config(folder, alora_invocation_tokens=[5])


def on_keys(folder: Path) -> None:
    make_adapter(folder, tiny_model(), targets=("k_proj", "v_proj"))


def of_another_model(folder: Path) -> None:
    def narrow(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {n: t[:, :32].contiguous() if "lora_A" in n else t for n, t in tensors.items()}

    edit_tensors(folder, narrow)


@pytest.fixture(scope="module")
def served(root: Path) -> Iterator[Served]:
    adapters = folders(root, "own")
    option = sharing("base+lr", adapters, slots=3)
    option["groups"] = [[*adapters, "guest"]]
    with Served(root / "llama", adapters, option) as served:
        yield served


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (dora, "DoRA"),
        pytest.param(
            scaled_by_layer,
            r"scales model\.layers\..* by .*this vLLM would scale it by",
            marks=pytest.mark.skipif(HONOURED, reason="this vLLM honours rank and alpha patterns"),
        ),
        (not_a_number, "NaN or Inf"),
        (pickled, "pickle file"),
        (gone, "adapter 'guest': no adapter at"),
        (wide, "rank 12 .* above the limit of 8"),
        (on_keys, 'LoRA on k_proj, for which pages have no room; .* "key_lora": true'),
        (activated, "is an aLoRA adapter"),
        (of_another_model, "has shape"),
        (lambda folder: None, "the sharing group needs 4 LR slots, and pages have 3"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_bad_adapter(
    spoil: Callable[[Path], None], message: str, served: Served, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):  # fmt: skip
    folder = make_adapter(tmp_path / "guest", tiny_model(), seed=20)
    spoil(folder)
    monkeypatch.setitem(served.ids, "guest", 60)
    monkeypatch.setitem(served.paths, "guest", str(folder))
    good = served.ask(Ask("plan", PROMPT))
    with pytest.raises(AdapterError, match=message) as caught:
        served.ask(Ask("guest", PROMPT))
    assert "lragent-adapters-" not in str(caught.value), "the message names a private copy"
    again = served.ask(Ask("plan", PROMPT))
    assert again[0].tokens == good[0].tokens


def test_no_memory_for_an_adapter(served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """An error of any other kind leaves no request behind that the engine would wait for."""
    folder = make_adapter(tmp_path / "guest", tiny_model(), seed=21)
    monkeypatch.setitem(served.ids, "guest", 70)
    monkeypatch.setitem(served.paths, "guest", str(folder))

    def fail(path: Path) -> None:
        raise MemoryError

    monkeypatch.setattr("lragent.adapters.peft_folder.read_weights", fail)
    with pytest.raises(MemoryError):
        served.ask(Ask("guest", PROMPT))
    assert not served.llm.llm_engine.has_unfinished_requests()
    assert served.ask(Ask("plan", PROMPT))[0].tokens


def test_keys_are_served_outside_of_groups(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = make_adapter(
        tmp_path / "k", tiny_model(), targets=("q_proj", "k_proj", "v_proj", "o_proj", "up_proj")
    )
    monkeypatch.setitem(served.ids, "alone", 61)
    monkeypatch.setitem(served.paths, "alone", str(folder))
    batch = [Ask("alone", PROMPT), Ask(None, prompt_of(30, 3)), Ask("act", prompt_of(30, 4))]
    with Embedded({**folders(Path(served.paths["act"]).parents[1], "own"), "alone": folder},
                  "isolated") as embedded:  # fmt: skip
        expected = [answer.tokens for answer in embedded.ask(*batch)]
    assert [answer.tokens for answer in served.ask(*batch)] == expected


@pytest.mark.skipif(not HONOURED, reason="this vLLM ignores rank and alpha patterns")
def test_ranks_and_scales_by_module(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """In a group and outside of it, token for token the embedded engine's output."""
    patterns: Any = {
        "rank_pattern": {"layers.0.self_attn.v_proj": 7, "q_proj": 2},
        "alpha_pattern": {"layers.1.self_attn.v_proj": 32},
    }
    for number, (name, policy) in enumerate((("act", "base+lr"), ("alone", "isolated")), start=62):
        folder = make_adapter(tmp_path / name, tiny_model(), seed=number, **patterns)
        monkeypatch.setitem(served.ids, name, number)
        monkeypatch.setitem(served.paths, name, str(folder))
        with Embedded({name: folder}, policy) as embedded:
            [expected] = embedded.ask(Ask(name, PROMPT))
        assert served.ask(Ask(name, PROMPT))[0].tokens == expected.tokens
