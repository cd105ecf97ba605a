"""Where a step of the engine and the loading of an adapter can fail."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import torch
from safetensors import SafetensorError
from tests.proof.failures import Point

from lragent.adapters import tensors
from lragent.cache.pool import PagePool
from lragent.engine import hooks, loop
from lragent.engine.lora_bank import LoraBank


def no_memory() -> Exception:
    return MemoryError("no memory")


def no_device_memory() -> Exception:
    return torch.OutOfMemoryError("out of memory")


def no_launch() -> Exception:
    return RuntimeError("the kernel could not be launched")


def no_space() -> Exception:
    return OSError(errno.ENOSPC, "No space left on device")


STEP = {
    "page allocation": Point(no_memory, ((PagePool, "_choose"),)),
    "tensor allocation": Point(no_device_memory, ((torch, "tensor"), (torch, "empty"))),
    "write to the pages": Point(no_launch, ((hooks, "write_pages"),)),
    "attention": Point(no_launch, ((hooks, "flash_lora_attention"),)),
    "sampling": Point(no_device_memory, ((loop, "sample"),)),
}

READ = {
    "file read": Point(
        lambda: OSError(errno.EIO, "Input/output error"),
        ((Path, "read_text"), (Path, "read_bytes")),
    ),
    "config": Point(lambda: ValueError("no JSON"), ((json, "loads"),)),
    "tensors": Point(lambda: SafetensorError("no tensors"), ((tensors, "load"),)),
}
"""Reading an adapter, for the engine as for the plugin."""

LOAD = {
    **READ,
    "memory for tensors": Point(no_memory, ((tensors, "load"),)),
    "copy to the device": Point(
        no_device_memory, ((LoraBank, "_slot_table"), (LoraBank, "_up"), (LoraBank, "_owners"))
    ),
}
