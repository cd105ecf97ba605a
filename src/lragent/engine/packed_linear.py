"""Linear layers whose weights lie in oneDNN's blocked order, for CPUs that read it faster.

One token is a matrix-vector product, bound by how fast weights can be read. On AMD's processors the
routine that PyTorch calls for plain row-major weights reaches less than half of the memory's
bandwidth and gains nothing from a second thread; on weights that oneDNN has reordered once, one to
sixteen tokens take about half the time and long prompts a sixth less. On Intel's it is the other
way round: one token over reordered weights takes 1.2 to 1.4 times as long.
"""

from __future__ import annotations

import functools
import platform
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

EXPECTED_ROWS = 64
"""Rows that the blocked order is chosen for; it serves any other number too."""


class PackedLinear(nn.Module):
    """`y = x W^T + b` as `nn.Linear` computes it, on reordered weights that replace the plain ones.

    Args:
        linear: the layer to take the weights of, fp32 on a CPU; `can_pack` must hold for it.
    """

    def __init__(self, linear: nn.Linear):
        super().__init__()
        self.in_features = linear.in_features
        self.out_features = linear.out_features
        self._weight = torch.ops.mkldnn._reorder_linear_weight(
            linear.weight.detach(), EXPECTED_ROWS
        )
        self._bias = None if linear.bias is None else linear.bias.detach()

    def forward(self, x: Tensor) -> Tensor:
        """`x`: `[..., in_features]` fp32; returns `[..., out_features]`."""
        return torch.ops.mkldnn._linear_pointwise(x, self._weight, self._bias, "none", [], "")


def can_pack(linear: nn.Linear) -> bool:
    """Whether this build of PyTorch can reorder the layer's weights: fp32 on a CPU with oneDNN.

    The two operators are those that `torch.compile` itself emits for linear layers on CPUs.
    """
    return (
        linear.weight.device.type == "cpu"
        and linear.weight.dtype == torch.float32
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


@functools.cache
def plain_is_faster() -> bool:
    """Whether this CPU is Intel's, where one token is faster over plain weights."""
    try:
        processor = Path("/proc/cpuinfo").read_text()
    except OSError:  # not Linux
        processor = platform.processor()
    return "GenuineIntel" in processor


def pack(linear: nn.Linear) -> nn.Linear | PackedLinear:
    """The layer on reordered weights where that is possible and faster, else the layer itself."""
    return PackedLinear(linear) if can_pack(linear) and not plain_is_faster() else linear


def pack_head(model: PreTrainedModel) -> None:
    """Do the same for the layer that gives the logits, without a second copy of its weights.

    Weights that are the token embeddings too cannot be reordered; they stay plain and only change
    to column-major, which suits a single token on any processor.
    """
    head, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
    if not isinstance(head, nn.Linear) or not can_pack(head):
        return
    if head.weight is embeddings.weight:
        head.weight.data = head.weight.data.t().contiguous().t()
    else:
        model.set_output_embeddings(pack(head))
