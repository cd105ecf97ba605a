"""Shared buffers: grown when needed, kept otherwise."""

from __future__ import annotations

import torch
from tests.attention.problems import DEVICE

from lragent.attention.gpu.workspace import buffer, held_bytes


def test_a_buffer_is_kept_until_it_is_too_small():
    first = buffer("test", 100, torch.float32, DEVICE)
    assert first.shape == (100,)
    before = held_bytes()
    assert buffer("test", 50, torch.float32, DEVICE).data_ptr() == first.data_ptr()
    assert held_bytes() == before
    assert buffer("test", 10_000, torch.float32, DEVICE).data_ptr() != first.data_ptr()
    assert held_bytes() == before + 65536
    assert buffer("other", 50, torch.float32, DEVICE).data_ptr() != first.data_ptr()
