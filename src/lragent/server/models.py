"""The names that `model` may have, and what they stand for."""

from __future__ import annotations

import time
from dataclasses import dataclass

from lragent.adapters.names import near_misses
from lragent.engine import Engine
from lragent.engine.errors import UnknownAdapterError
from lragent.server.errors import ApiError
from lragent.server.options import ServerOptions
from lragent.server.protocol.models import LoadBody, ModelCard


@dataclass(frozen=True)
class _Loaded:
    path: str
    created: int


class ServedModels:
    """The base model and its adapters by name. Any thread may call it.

    Raises:
        ValueError: an adapter has the base model's name.
    """

    def __init__(self, engine: Engine, options: ServerOptions):
        self.base = options.base_model
        self._engine = engine
        self._started = int(time.time())
        self._loaded = {
            name: _Loaded(options.adapter_paths.get(name, name), self._started)
            for name in engine.adapters
        }
        self.unloaded = {"adapters": 0, "bytes": 0}
        if self.base in self._loaded:
            raise ValueError(f"an adapter and the base model are both named {self.base!r}")

    def adapter(self, model: str | None) -> str | None:
        """The adapter that `model` names; None for the base model.

        Raises:
            ApiError: 404, with the names that come near.
        """
        if model in (None, self.base):
            return None
        if model in self._engine.adapters:
            return model
        hint = near_misses(model, (self.base, *self._engine.adapters))
        raise ApiError(
            404, f"there is no model {model!r}{hint}", param="model", code="model_not_found"
        )

    def cards(self) -> list[ModelCard]:
        """The base model, then the adapters."""
        longest = self._engine.shape.max_positions
        base = ModelCard(id=self.base, created=self._started, root=self.base, max_model_len=longest)
        return [base, *map(self._card, self._engine.adapters)]

    def _card(self, name: str) -> ModelCard:
        known = self._loaded.get(name, _Loaded(name, self._started))  # the engine's owner may load
        return ModelCard(id=name, created=known.created, root=known.path, parent=self.base)

    def load(self, body: LoadBody) -> str:
        """Load an adapter; what to answer.

        Raises:
            ApiError: the name is taken, or there is no such folder.
            AdapterError: the folder is refused.
        """
        name, path = body.lora_name, body.lora_path
        if name == self.base:
            raise ApiError(400, f"{name!r} is the base model's name", param="lora_name")
        known = name in self._engine.adapters
        if known and not body.load_inplace:
            raise ApiError(
                400,
                f"an adapter named {name!r} is loaded; unload it first, or send load_inplace",
                param="lora_name",
            )
        (self._engine.reload_adapter if known else self._engine.load_adapter)(name, path)
        self._loaded[name] = _Loaded(path, int(time.time()))
        return f"Success: LoRA adapter '{name}' added successfully."

    def unload(self, name: str) -> str:
        """Take an adapter away; what to answer.

        Raises:
            ApiError: nothing is loaded under that name.
        """
        try:
            freed = self._engine.unload_adapter(name)
        except UnknownAdapterError as error:
            message, code = str(error), "model_not_found"
            raise ApiError(404, message, param="lora_name", code=code) from error
        self._loaded.pop(name, None)
        self.unloaded["adapters"] += 1
        self.unloaded["bytes"] += freed.bytes
        return (
            f"Success: LoRA adapter '{name}' removed successfully. "
            f"{freed.bytes} bytes of KV cache were freed."
        )
