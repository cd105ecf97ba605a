"""Shapes of a base model's linear layers, read from the headers of its safetensors files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from lragent.adapters.errors import AdapterError

_WEIGHT = ".weight"
_EMBEDDING = "embed_tokens.weight"


@dataclass(frozen=True)
class BaseFolder:
    """What :func:`lragent.adapters.check_against_model` needs to know of a base model.

    Attributes:
        name: the folder's name.
        linear_shapes: ``(d_in, d_out)`` of each matrix but the embedding, by module name.
        has_key_norm: whether keys are normalised after k_proj.
    """

    name: str
    linear_shapes: dict[str, tuple[int, int]]
    has_key_norm: bool


def read_base_folder(path: str | Path) -> BaseFolder:
    """Read the shapes without loading a weight.

    Raises:
        AdapterError: no folder, no safetensors files in it, or a corrupt one.
    """
    folder = Path(path).expanduser().resolve()
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
    return BaseFolder(folder.name, shapes, has_key_norm)
