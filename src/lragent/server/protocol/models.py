"""``/v1/models`` and the two routes that change what it lists, with vLLM's fields."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import BaseModel, Field

from lragent.server.protocol.common import Strict


class ModelCard(BaseModel):
    """The base model, or an adapter, whose `parent` is the base model."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "lragent"
    root: str
    parent: str | None = None
    max_model_len: int | None = None


class ModelList(BaseModel):
    """Everything that `model` may name."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


class LoadBody(Strict):
    """An adapter to load from a folder of the server's machine."""

    lora_name: str = Field(min_length=1)
    lora_path: str = Field(min_length=1)
    load_inplace: bool = Field(False, description="Replace the weights under a name in use.")


class UnloadBody(Strict):
    """An adapter to take away."""

    ignored: ClassVar = frozenset(("lora_int_id",))  # vLLM's

    lora_name: str = Field(min_length=1)
