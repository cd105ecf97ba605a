"""Loads the A of a group's members into the workers, whether they are active there or not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from lragent.adapters.peft_folder import read_adapter
from lragent.vllm.errors import PluginError
from lragent.vllm.orders import RowLoad

if TYPE_CHECKING:
    from lragent.vllm.worker_state import WorkerSizes


def load_rows(layers: Mapping[str, Any], loads: Iterable[RowLoad], sizes: WorkerSizes) -> None:
    """Copy each ordered down-projection to its row of every layer's ``down``.

    Raises:
        PluginError: the folder holds other weights than the scheduler counts on.
    """
    for load in loads:
        adapter = read_adapter(load.folder, max_rank=sizes.rank)
        if adapter.slot_digest != load.digest:
            raise PluginError(
                f"{load.folder} holds other weights than when it was checked; keep the folders of "
                "loaded adapters as they are, and load new weights from new folders"
            )
        row = sizes.max_loras + load.row
        for path, layer in layers.items():
            target = layer.down[row]
            target.zero_()
            module = adapter.modules.get(f"{path}.v_proj")
            if module is not None:
                target[: module.rank].copy_(module.a)
