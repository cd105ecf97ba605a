"""Types of what callers hand to the engine: a wrong one is refused with a message, at the call."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lragent.engine.errors import UnsupportedModelError
from lragent.engine.hooks import ATTENTION_NAME

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def check_text(argument: str, value: object) -> str:
    """`value`, if it is text that can be encoded.

    Raises:
        TypeError: no string.
        ValueError: a string with a lone surrogate, which UTF-8 cannot hold.
    """
    if not isinstance(value, str):
        raise TypeError(f"{argument} must be a string, not {value!r:.80}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{argument} is no valid Unicode text: {error}") from None
    return value


def check_count(argument: str, value: object, least: int = 1) -> None:
    """Refuse what is no whole number of at least `least`.

    Raises:
        TypeError, ValueError: names the argument.
    """
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{argument} must be a whole number, not {value!r:.80}")
    if value < least:
        raise ValueError(f"{argument} must be at least {least}, not {value}")


def check_seconds(argument: str, value: object) -> None:
    """Refuse what is no positive, finite number of seconds; None is none.

    Raises:
        TypeError, ValueError: names the argument.
    """
    if value is None:
        return
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError(f"{argument} must be seconds, not {value!r:.80}")
    if not 0 < value < math.inf:
        raise ValueError(f"{argument} must be a positive number of seconds, not {value}")


def check_model(model: object) -> None:
    """Refuse what is no name, folder or `(model, tokenizer)` pair.

    Raises:
        TypeError: says what to give instead.
        UnsupportedModelError: the model of the pair serves another engine.
    """
    if isinstance(model, str | Path):
        return
    if not isinstance(model, tuple) or len(model) != 2:
        raise TypeError(
            "model must be a hub name, a folder, or a pair (model, tokenizer), not "
            f"{type(model).__name__}; for a model without tokenizer give (model, None)"
        )
    if not isinstance(model[0], PreTrainedModel):
        raise TypeError(
            f"the model of the pair is a {type(model[0]).__name__} and must be a transformers "
            "model; of a PEFT model give the base model, and its adapter's folder in adapters="
        )
    if model[0].config._attn_implementation == ATTENTION_NAME:
        raise UnsupportedModelError(
            "this model belongs to another engine, which has exchanged its layers; load another "
            "copy, or serve all adapters from that engine"
        )
    if not isinstance(model[1], PreTrainedTokenizerBase | None):
        raise TypeError(
            f"the tokenizer of the pair is a {type(model[1]).__name__}; give a transformers "
            "tokenizer, or None"
        )


def check_adapters(adapters: object) -> None:
    """Refuse what is no mapping of names to folders.

    Raises:
        TypeError: says what to give instead.
    """
    if not isinstance(adapters, Mapping):
        raise TypeError(
            f"adapters must map names to folders, as {{'plan': 'FOLDER'}}, not {adapters!r:.80}"
        )
    for name, folder in adapters.items():
        check_text("an adapter's name", name)
        if not isinstance(folder, str | Path):
            raise TypeError(f"the folder of adapter {name!r} must be a path, not {folder!r:.80}")


def as_dtype(dtype: object, device: torch.device) -> torch.dtype:
    """A floating-point dtype from itself or its name; by default the usual one of the device.

    Raises:
        ValueError: anything else.
    """
    if dtype is None:
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    found: Any = _DTYPES.get(dtype.removeprefix("torch.")) if isinstance(dtype, str) else dtype
    if found not in _DTYPES.values():
        raise ValueError(f"dtype must be one of {', '.join(_DTYPES)}, not {dtype!r:.80}")
    return found


def as_device(device: str | torch.device | None) -> torch.device:
    """The device, by default the GPU where there is one.

    Raises:
        ValueError: torch knows no such device, or this machine has none.
    """
    try:
        found = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(0, device=found)
    except (RuntimeError, TypeError, AssertionError) as error:  # the last: a build without CUDA
        reason = str(error).partition("\n")[0]
        raise ValueError(f"device={device!r:.80} is no device here: {reason:.200}") from None
    return found
