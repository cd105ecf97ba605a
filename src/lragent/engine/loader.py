"""Load a base model and its tokenizer by folder, hub name, or `smollm2`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

from lragent import smollm2
from lragent.files import expanded
from lragent.smollm2 import ModelUnavailableError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["ModelUnavailableError", "load_model", "resolve_model"]


def resolve_model(name_or_path: str | Path) -> Path | str:
    """Turn what the user wrote into something transformers loads.

    A folder stays a folder and a hub name a hub name, whose weights are the hub's. The name
    `smollm2` is the packaged model of `lragent.smollm2`, unpacked on its first use.

    Raises:
        ModelUnavailableError: a path that is no model folder, or `smollm2` cannot be had.
    """
    if name_or_path == smollm2.NAME:
        return smollm2.convert()
    name = str(name_or_path)
    folder = expanded(name)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ModelUnavailableError(f"{folder} is no model folder: it has no config.json.")
        return folder
    if isinstance(name_or_path, Path) or name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise ModelUnavailableError(f"There is no model folder {folder}.")
    return name


def load_model(
    name_or_path: str | Path,
    dtype: torch.dtype | None = None,
    device: str | torch.device = "cpu",
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a causal language model and its tokenizer.

    Args:
        name_or_path: local folder, hub name, or `smollm2`. A hub model that is in the hub's local
            cache is used as it lies there, without asking the network.
        dtype: of the weights; float32 when not given.
        device: where the model goes.

    Returns:
        The model in evaluation mode, and the tokenizer.

    Raises:
        ModelUnavailableError: nothing was found under this name; the message says why.
    """
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = resolve_model(name_or_path)
    local = isinstance(source, Path) or _in_hub_cache(source)
    try:
        if not local:
            _ask_hub(str(source))
        with smollm2.quiet_transformers():
            tokenizer = AutoTokenizer.from_pretrained(str(source), local_files_only=local)
            model = AutoModelForCausalLM.from_pretrained(
                str(source), dtype=dtype or torch.float32, local_files_only=local
            )
    except (OSError, ValueError, SafetensorError) as error:
        raise ModelUnavailableError(_explain(source, error)) from error
    cast("torch.nn.Module", model).to(device)
    return model.eval(), tokenizer


def _in_hub_cache(name: str) -> bool:
    """Whether config and weights of a hub model are in the hub's local cache."""
    from huggingface_hub import try_to_load_from_cache

    def cached(file: str) -> bool:
        return isinstance(try_to_load_from_cache(name, file), str)

    weights = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")
    return cached("config.json") and any(cached(file) for file in weights)


def _ask_hub(name: str) -> None:
    """Fail within seconds when the hub has no such model or cannot be reached.

    transformers would retry each file for most of a minute before it says so.
    """
    from huggingface_hub import HfApi, errors

    # The base class of the hub's HTTP errors belongs to the HTTP library that the hub uses; which
    # one that is depends on its version.
    http_error: type[Exception] = errors.HfHubHTTPError.__bases__[0]
    try:
        HfApi().model_info(name, timeout=10)
    except (http_error, errors.OfflineModeIsEnabled) as error:
        raise OSError(str(error)) from error


def _explain(source: Path | str, error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    text = f"The model {source} could not be loaded: {lines[0]}"
    if isinstance(source, str):
        text += "\nWithout access to the Hugging Face hub, give the path of a local folder."
    return text
