"""Settings that must be in place before any test module is imported."""

from __future__ import annotations

import os

import torch
from hypothesis import settings

if not torch.cuda.is_available():
    # The GPU kernels' tests run in Triton's interpreter, chosen when Triton is first imported,
    # which transformers does too.
    os.environ["TRITON_INTERPRET"] = "1"

# A busy machine is no failure.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")
