"""A base model's sizes without its weights, from its configuration alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lragent.adapters.model_facts import ModelFacts

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def empty_model(name: str) -> PreTrainedModel:
    """The model's modules on the meta device. `name` is what `Engine` takes.

    Raises ModelUnavailableError when there is no such model, or none that transformers knows.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from lragent.engine.loader import ModelUnavailableError, resolve_model

    try:
        config = AutoConfig.from_pretrained(str(resolve_model(name)))
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config)
    except (OSError, ValueError, KeyError) as error:
        line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelUnavailableError(f"The model {name} could not be read: {line}") from error


def model_facts(name: str) -> ModelFacts:
    """What adapters have to fit, of a model of any family."""
    from torch import nn

    model = empty_model(name)
    linears = {
        path: (module.in_features, module.out_features)
        for path, module in model.named_modules()
        if isinstance(module, nn.Linear)
    }
    has_key_norm = any(path.endswith(".k_norm") for path, _ in model.named_modules())
    return ModelFacts(name, linears, has_key_norm)
