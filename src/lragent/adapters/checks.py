"""Checks of an adapter against the base model that is to carry it."""

from __future__ import annotations

import re
from collections.abc import Mapping

from lragent.adapters.errors import AdapterError
from lragent.adapters.model import Adapter
from lragent.adapters.model_facts import ModelFacts
from lragent.adapters.names import near_misses
from lragent.adapters.tensors import tensor_name

_HUB_CACHE = re.compile(r"models--(?:.+--)?(?P<name>[^/]+?)/snapshots/[^/]+/?$")


def short_model_name(name: str) -> str:
    """A base model's name for comparison: the last path component, in lower case.

    A snapshot folder of the Hub's cache counts as the model that it holds.
    """
    path = name.replace("\\", "/").rstrip("/")
    cached = _HUB_CACHE.search(path)
    return (cached["name"] if cached else path.rsplit("/", 1)[-1]).lower()


def _check_name(adapter: Adapter, model_name: str) -> None:
    stated = adapter.base_model
    if stated is not None and short_model_name(stated) != short_model_name(model_name):
        raise AdapterError(
            f"{adapter.path} was trained on {stated} (base_model_name_or_path), not on "
            f"{model_name}; load it with its own base model, or pass allow_other_base=True if "
            "the two are the same weights under different names"
        )


def _check_complete(adapter: Adapter, linear_names: Mapping[str, object]) -> None:
    config = adapter.config
    if config is None or not config.states_targets:
        return
    for name in linear_names:
        if name not in adapter.modules and config.targets(name):
            raise AdapterError(
                f"{adapter.path}: target_modules of its config covers {name}, but the weights "
                f"hold no {tensor_name(name, 'A')}; the file is incomplete, save the adapter again"
            )


def check_against_model(
    adapter: Adapter, model: ModelFacts, *, allow_other_base: bool = False
) -> None:
    """Refuse an adapter that does not fit a base model.

    Args:
        adapter: the adapter.
        model: the base model.
        allow_other_base: accept an adapter whose config names another base model.

    Raises:
        AdapterError: another base model, a module that the model lacks, a tensor of another
            shape, a targeted module without tensors, or k_proj LoRA (but not aLoRA, whose term is
            added before the norm) under a key norm.
    """
    if not allow_other_base:
        _check_name(adapter, model.name)
    for module in adapter.modules.values():
        shape = model.linear_shapes.get(module.name)
        if shape is None:
            raise AdapterError(
                f"{adapter.path}: {model.name} has no linear layer {module.name}"
                f"{near_misses(module.name, model.linear_shapes)}; "
                "load the adapter with the base model that it was trained on"
            )
        for side, tensor, wanted in (
            ("A", module.a, (module.rank, shape[0])),
            ("B", module.b, (shape[1], module.rank)),
        ):
            if tuple(tensor.shape) != wanted:
                raise AdapterError(
                    f"{adapter.path}: tensor {tensor_name(module.name, side)} has shape "
                    f"{tuple(tensor.shape)}, but {model.name} needs {wanted}; "
                    "load the adapter with the base model that it was trained on"
                )
        if model.has_key_norm and module.projection == "k_proj" and not adapter.is_alora:
            raise AdapterError(
                f"{adapter.path}: LoRA on {module.name} cannot be served: {model.name} normalises "
                "keys after k_proj, so they cannot be split into a base and a low-rank part; "
                "train the adapter without k_proj"
            )
    _check_complete(adapter, model.linear_shapes)
