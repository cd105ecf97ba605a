"""Shapes of a base model's linear layers, read from the headers of its safetensors files."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError, safe_open

from lragent.adapters.errors import AdapterError
from lragent.adapters.model_facts import ModelFacts
from lragent.files import expanded

_WEIGHT = ".weight"
_EMBEDDING = "embed_tokens.weight"


def read_base_folder(path: str | Path) -> ModelFacts:
    """Read the shapes, without that of the embedding, and load no weight.

    Raises:
        AdapterError: no folder, no safetensors files in it, or a corrupt one.
    """
    folder = expanded(path).resolve()
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise AdapterError(
            f"{folder} holds no safetensors files; give the local folder of the base model"
        )
    shapes: dict[str, tuple[int, int]] = {}
    names: list[str] = []
    for file in files:
        try:
            with safe_open(file, framework="pt") as content:
                for name in content.keys():  # noqa: SIM118 (the handle is no mapping)
                    names.append(name)
                    shape = content.get_slice(name).get_shape()
                    if name.endswith(_WEIGHT) and len(shape) == 2 and _EMBEDDING not in name:
                        shapes[name.removesuffix(_WEIGHT)] = (shape[1], shape[0])
        except (OSError, SafetensorError) as error:
            raise AdapterError(
                f"{file} is no readable safetensors file ({error}); download the model again"
            ) from error
    has_key_norm = any(name.endswith(".k_norm.weight") for name in names)
    return ModelFacts(folder.name, shapes, has_key_norm)
