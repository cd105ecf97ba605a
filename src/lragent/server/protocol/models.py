"""``/v1/models`` and the two routes that change what it lists, with vLLM's fields."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


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


class LoadBody(BaseModel):
    """An adapter to load from a folder of the server's machine."""

    model_config = ConfigDict(extra="forbid")

    lora_name: str = Field(min_length=1)
    lora_path: str = Field(min_length=1)
    load_inplace: bool = Field(False, description="Replace the weights under a name in use.")


class UnloadBody(BaseModel):
    """An adapter to take away."""

    model_config = ConfigDict(extra="forbid")

    lora_name: str = Field(min_length=1)
    lora_int_id: int | None = Field(None, description="vLLM's; not looked at.")
