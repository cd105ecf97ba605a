"""Fresh LoRA adapters on a base model, and the ways in which they share A."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, cast

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from lragent.adapters import near_misses
from lragent.training.config import TrainConfig
from lragent.training.errors import TrainingError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def add_adapters(model: PreTrainedModel, roles: Iterable[str], config: TrainConfig) -> PeftModel:
    """Put one fresh adapter for each role on `model`; their weights are float32.

    Raises:
        TrainingError: a target that the model has no layer for.
    """
    layers = {name.rsplit(".", 1)[-1] for name, m in model.named_modules() if _is_linear(m)}
    for target in config.targets:
        if target not in layers:
            raise TrainingError(
                f"the model has no linear layer {target!r}{near_misses(target, layers)}"
            )
    lora = LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,  # pyright: ignore[reportArgumentType] peft takes any number
        lora_dropout=config.dropout,
        target_modules=list(config.targets),
        bias="none",
        task_type="CAUSAL_LM",
    )
    first, *others = roles
    wrapped = get_peft_model(model, lora, adapter_name=first)
    if not isinstance(wrapped, PeftModel):
        raise TrainingError(f"{type(model).__name__} takes no adapters of one role each")
    for role in others:
        wrapped.add_adapter(role, lora)
    # PEFT leaves only the active adapter trainable.
    for _, layer in _layers(wrapped, config.targets):
        for parts in (layer.lora_A, layer.lora_B):
            parts.requires_grad_(True)
    return wrapped


def checkpoint_activations(model: PreTrainedModel, *, use_reentrant: bool = False) -> None:
    """Keep no activations of the layers for the backward pass, but compute them again there."""
    # transformers renamed it in 5.24.
    enable = getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)
    enable({"use_reentrant": use_reentrant})


def use_role(model: PeftModel, role: str) -> None:
    """Run the next forward passes with this role's adapter, without freezing the others."""
    trainable = [p for p in model.parameters() if p.requires_grad]
    model.set_adapter(role)
    for parameter in trainable:
        parameter.requires_grad_(True)


def freeze_shared(
    model: PeftModel, role: str, weights: Mapping[str, Tensor], projections: Iterable[str]
) -> None:
    """Copy A of `projections` from a saved adapter's `weights` and keep it as it is."""
    for name, layer in _layers(model, projections):
        parameter = cast(nn.Linear, layer.lora_A[role]).weight
        with torch.no_grad():
            parameter.copy_(weights[f"{name}.lora_A.weight"])
        parameter.requires_grad_(False)


def tie_shared(model: PeftModel, roles: Iterable[str], projections: Iterable[str]) -> None:
    """Give all roles the first role's A of `projections`, as one parameter."""
    first, *others = roles
    for _, layer in _layers(model, projections):
        for role in others:
            layer.lora_A[role].weight = layer.lora_A[first].weight


def parameters_by_rate(
    model: PeftModel, roles: Iterable[str], config: TrainConfig
) -> list[dict[str, object]]:
    """Optimiser groups: the trainable parameters of each role with its learning rate.

    A tied parameter belongs to the first role.
    """
    groups: list[dict[str, object]] = []
    taken: set[int] = set()
    for role in roles:
        own = []
        for name, parameter in model.named_parameters(remove_duplicate=False):
            if f".{role}." in name and parameter.requires_grad and id(parameter) not in taken:
                taken.add(id(parameter))
                own.append(parameter)
        groups.append({"params": own, "lr": config.rate(role)})
    return groups


def trainable_state(model: nn.Module) -> dict[str, Tensor]:
    """The parameters that training changes, by name; a tied one appears once."""
    return {
        name: parameter.detach().cpu().contiguous()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


def _is_linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear)


def _layers(model: PeftModel, projections: Iterable[str]) -> Iterator[tuple[str, LoraLayer]]:
    wanted = set(projections)
    for name, module in model.named_modules():
        if isinstance(module, LoraLayer) and name.rsplit(".", 1)[-1] in wanted:
            yield name, module
