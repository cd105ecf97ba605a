"""Loads the A of a group's members into the workers, whether they are active there or not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from lragent.adapters.peft_folder import read_adapter
from lragent.vllm.errors import PluginError
from lragent.vllm.messages import RowLoad


def load_rows(
    layers: Mapping[str, Any], loads: Iterable[RowLoad], first_row: int, max_rank: int
) -> None:
    """Copy each ordered down-projection to its row of every layer's ``down``.

    Args:
        layers: LoRA layers by the path of their attention module.
        loads: what to load.
        first_row: where the groups' rows begin in ``down``.
        max_rank: largest rank that the engine takes.

    Raises:
        PluginError: the folder holds other weights than the scheduler counts on.
    """
    for load in loads:
        adapter = read_adapter(load.folder, max_rank=max_rank)
        if adapter.slot_digest != load.digest:
            raise PluginError(
                f"{load.folder} holds other weights than when it was checked; keep the folders of "
                "loaded adapters as they are, and load new weights from new folders"
            )
        row = first_row + load.row
        for path, layer in layers.items():
            layer.set_down(
                row, *(adapter.modules.get(f"{path}.{name}_proj") for name in ("v", "k"))
            )
