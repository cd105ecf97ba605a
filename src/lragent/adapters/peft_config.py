"""adapter_config.json: read it with PEFT's own rules, refuse what changes the forward pass."""

from __future__ import annotations

import json
import math
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft import LoraConfig
from peft.tuners.tuners_utils import check_target_module_exists
from peft.utils.other import get_pattern_key
from pydantic import (
    BaseModel,
    ConfigDict,
    FiniteFloat,
    NonNegativeInt,
    PositiveInt,
    ValidationError,
)

from lragent.adapters.errors import AdapterError

CONFIG_FILE = "adapter_config.json"

_MERGE = "merge it into the base model (merge_and_unload) and serve the merged model as the base"
_RETRAIN = "train it again as plain LoRA on the linear layers of attention"

_REFUSED: Mapping[str, tuple[str, str]] = {
    "use_dora": ("DoRA rescales the whole weight, which is no low-rank term", _MERGE),
    "lora_bias": ("a bias on lora_B is no low-rank term", "train it again with lora_bias=False"),
    "modules_to_save": (
        "it replaces whole modules of the base model, so the base part cannot be shared",
        "train it again without modules_to_save, or " + _MERGE,
    ),
    "trainable_token_indices": ("it replaces rows of the embedding", _MERGE),
    "target_parameters": ("LoRA on bare parameters has no cached term", _RETRAIN),
    "layer_replication": ("it changes the stack of layers of the base model", _MERGE),
    "megatron_config": ("Megatron layers are laid out in another way", "export it as plain PEFT"),
    "use_qalora": ("QA-LoRA pools the input before lora_A", _RETRAIN),
    "use_bdlora": ("block-diagonal LoRA stores its matrices in another layout", _RETRAIN),
    "arrow_config": ("Arrow routes between several adapters", _RETRAIN),
    "kasa_config": ("KaSA changes the base weights and adds a diagonal between A and B", _RETRAIN),
    "monteclora_config": ("Monte Carlo LoRA perturbs the weights", _RETRAIN),
}

_USED = {
    "peft_type",
    "base_model_name_or_path",
    "r",
    "lora_alpha",
    "use_rslora",
    "rank_pattern",
    "alpha_pattern",
    "target_modules",
    "exclude_modules",
    "layers_to_transform",
    "layers_pattern",
    "bias",
    "init_lora_weights",
    "alora_invocation_tokens",
}

# These matter in training only, or (fan_in_fan_out, ensure_weight_tying, runtime_config) only to
# merging, to fields that are refused, or to where PEFT computes.
_WITHOUT_EFFECT = {
    "task_type",
    "auto_mapping",
    "peft_version",
    "revision",
    "inference_mode",
    "lora_dropout",
    "fan_in_fan_out",
    "megatron_core",
    "loftq_config",
    "eva_config",
    "corda_config",
    "lora_ga_config",
    "qalora_group_size",
    "runtime_config",
    "ensure_weight_tying",
}

# PEFT repeats these initialisations when it loads the adapter, which changes the base weights.
_INITS_THAT_CHANGE_THE_BASE = ("pissa", "olora", "corda", "loftq")

_EMBEDDINGS = {"embed_tokens", "wte", "lm_head"}


class _Fields(BaseModel):
    """Types of the fields that are computed with; PEFT itself does not check them."""

    model_config = ConfigDict(strict=True, extra="ignore")

    base_model_name_or_path: str | None = None
    r: PositiveInt = 8
    lora_alpha: FiniteFloat = 8
    use_rslora: bool = False
    rank_pattern: dict[str, PositiveInt] | None = None
    alpha_pattern: dict[str, FiniteFloat] | None = None
    target_modules: str | list[str] | None = None
    exclude_modules: str | list[str] | None = None
    layers_to_transform: int | list[int] | None = None
    layers_pattern: str | list[str] | None = None
    alora_invocation_tokens: list[NonNegativeInt] | None = None


@dataclass(frozen=True, eq=False)
class AdapterConfig:
    """The parts of an adapter_config.json that change the result, resolved as PEFT does."""

    lora: LoraConfig
    base_model: str | None
    largest_rank: int
    notes: tuple[str, ...] = ()

    def rank_of(self, module: str) -> int:
        """Rank that PEFT gives the module of this name."""
        patterns = self.lora.rank_pattern or {}
        return patterns.get(get_pattern_key(list(patterns), module), self.lora.r)

    def scaling_of(self, module: str) -> float:
        """Factor on the low-rank term of the module of this name."""
        patterns = self.lora.alpha_pattern or {}
        alpha = patterns.get(get_pattern_key(list(patterns), module), self.lora.lora_alpha)
        rank = self.rank_of(module)
        return alpha / math.sqrt(rank) if self.lora.use_rslora else alpha / rank

    @property
    def invocation_tokens(self) -> tuple[int, ...] | None:
        """Token ids that switch an aLoRA adapter on; None for an ordinary adapter."""
        return tuple(self.lora.alora_invocation_tokens or ()) or None

    def targets(self, module: str) -> bool:
        """Whether PEFT would put LoRA on the module of this name."""
        if self.lora.target_modules is None or self.lora.target_modules == "all-linear":
            return True
        return bool(check_target_module_exists(self.lora, module))

    @property
    def states_targets(self) -> bool:
        """Whether the config says which modules are adapted, rather than leaving it to PEFT."""
        return self.lora.target_modules not in (None, "all-linear")


def read_json_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises AdapterError when it holds anything else."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise AdapterError(
            f"{path} cannot be read as JSON ({error}); copy or download the adapter again"
        ) from error
    if not isinstance(value, dict):
        raise AdapterError(
            f"{path} holds a JSON {type(value).__name__} where an object belongs; "
            "copy or download the adapter again"
        )
    return value


def _refuse(path: Path, field: str, value: object, why: str, way_out: str) -> AdapterError:
    return AdapterError(f"{path}: {field}={value!r} is not supported: {why}; {way_out}")


def _check_peft_type(path: Path, raw: Mapping[str, Any]) -> None:
    kind = raw.get("peft_type")
    if kind is None:
        raise AdapterError(
            f"{path} has no field peft_type, so it is no PEFT adapter; "
            "save the adapter with PEFT's save_pretrained"
        )
    if kind != "LORA":
        why = "only plain LoRA has the low-rank term that the cache keeps apart"
        raise _refuse(path, "peft_type", kind, why, _RETRAIN)


def _check_variants(path: Path, raw: Mapping[str, Any]) -> None:
    for field, (why, way_out) in _REFUSED.items():
        if raw.get(field):
            raise _refuse(path, field, raw[field], why, way_out)
    if raw.get("bias", "none") not in ("none", None):
        why = "it changes biases of the base model, so the base part cannot be shared"
        raise _refuse(path, "bias", raw["bias"], why, 'train it again with bias="none"')
    init = raw.get("init_lora_weights")
    if isinstance(init, str) and init.lower().startswith(_INITS_THAT_CHANGE_THE_BASE):
        raise _refuse(
            path,
            "init_lora_weights",
            init,
            "it changes the weights of the base model",
            "save the adapter again with path_initial_model_for_weight_conversion, "
            "which turns it into plain LoRA",
        )
    for field, value in raw.items():
        known = field in _USED or field in _WITHOUT_EFFECT or field in _REFUSED
        if not known and value:
            why = "this field is not known here and may change what the adapter computes"
            way_out = "upgrade lragent, or save the adapter without it if it has no effect"
            raise _refuse(path, field, value, why, way_out)


def _check_embeddings(path: Path, targets: str | list[str] | None) -> None:
    if isinstance(targets, list):
        for target in targets:
            if target.rsplit(".", 1)[-1] in _EMBEDDINGS:
                why = "LoRA on the embedding or on the output head is not computed by the scheme"
                raise _refuse(path, "target_modules", target, why, _RETRAIN)


def _parse_fields(path: Path, raw: Mapping[str, Any]) -> _Fields:
    try:
        fields = _Fields.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise AdapterError(
            f"{path}: field {field} is {first['input']!r}: {first['msg']}; "
            "correct the config or save the adapter again with PEFT"
        ) from error
    patterns = [*(fields.rank_pattern or {}), *(fields.alpha_pattern or {})]
    for field in ("target_modules", "exclude_modules"):
        value = getattr(fields, field)
        patterns += [value] if isinstance(value, str) else []
    for pattern in patterns:
        try:
            re.compile(pattern)
        except re.error as error:
            raise AdapterError(
                f"{path}: {pattern!r} is no valid regular expression ({error}); correct the config"
            ) from error
    return fields


def _notes(raw: Mapping[str, Any], fields: _Fields) -> tuple[str, ...]:
    notes = []
    if not fields.base_model_name_or_path:
        notes.append(f"{CONFIG_FILE} does not say which base model it belongs to")
    if raw.get("fan_in_fan_out"):
        notes.append("fan_in_fan_out has no effect on linear layers")
    if raw.get("init_lora_weights") == "lora_ga":
        notes.append("LoRA-GA changes the base weights in training; this serves the original base")
    return tuple(notes)


def parse_config(path: Path) -> AdapterConfig:
    """Read and check an adapter_config.json.

    Raises:
        AdapterError: no JSON object, not LoRA, or a setting that changes the forward pass in a
            way that the scheme cannot hold; a setting that is not known counts as one.
    """
    raw = read_json_object(path)
    _check_peft_type(path, raw)
    _check_variants(path, raw)
    fields = _parse_fields(path, raw)
    _check_embeddings(path, fields.target_modules)
    try:
        with warnings.catch_warnings():
            # PEFT warns of settings for training; they say nothing about serving.
            warnings.simplefilter("ignore")
            lora = LoraConfig(**fields.model_dump(exclude={"base_model_name_or_path"}))
    except (TypeError, ValueError) as error:
        raise AdapterError(f"{path}: PEFT refuses this config: {error}; correct it") from error
    ranks = [fields.r, *(fields.rank_pattern or {}).values()]
    base_model = fields.base_model_name_or_path or None
    return AdapterConfig(lora, base_model, max(ranks), _notes(raw, fields))
