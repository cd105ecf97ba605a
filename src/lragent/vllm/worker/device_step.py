"""What every layer of a step launches, worked out for the first of them.

Between piecewise graphs the device waits for the host, layer after layer. All layers of a model
have the same pages, so their launches differ in memory alone.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from lragent.attention import AttentionBatch
from lragent.attention.gpu.backend import attention_calls, is_fixed
from lragent.attention.gpu.calls import Call
from lragent.attention.gpu.layer import Layer
from lragent.attention.gpu.write import WriteCall, prepare_write

WriteInputs = tuple[Tensor, ...]
"""What is written of a step's tokens: see `WorkerState.write_inputs`."""


class DeviceStep(NamedTuple):
    """The launches of a step.

    Attributes:
        layout: of the tensors that it was worked out for, see `layout_of`.
        write: writes the tokens' rows.
        attend: attention.
    """

    layout: tuple[object, ...]
    write: WriteCall
    attend: list[Call]

    def run(self, q: Tensor, k: Tensor, v: Tensor, out: Tensor, layer: Layer) -> None:
        """Launch them for one layer."""
        self.write(k, v, layer.k, layer.v, layer.lr)
        for call in self.attend:
            call(q, out, layer)


def layout_of(q: Tensor, k: Tensor, v: Tensor, out: Tensor) -> tuple[object, ...]:
    """What has to be alike in another layer for its launches to be the same."""
    return is_fixed(q), q.shape, q.stride(), k.stride(), v.stride(), out.stride()


def prepare_step(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    layer: Layer,
    batch: AttentionBatch,
    inputs: WriteInputs,
    slot_mapping: Tensor,
    scale: float,
) -> DeviceStep:
    """Work out a step for its first layer.

    Args:
        q: ``[T, Hq, D]``, rows contiguous.
        k: ``[T, Hk, D]``, rows contiguous, as many tokens as ``slot_mapping`` has.
        v: the same.
        out: ``[T, Hq, D]``, rows contiguous.
        layer: what the layer reads.
        batch: the sequences.
        inputs: what is written.
        slot_mapping: ``[T]`` int64, where it is written; -1 for nowhere.
        scale: softmax scale.
    """
    lr, write_base, rows, slots = inputs
    return DeviceStep(
        layout_of(q, k, v, out),
        prepare_write(k, v, lr, layer.k, layer.v, layer.lr, slot_mapping, write_base, rows, slots),
        attention_calls(q, out, layer, batch, scale, 0),
    )
