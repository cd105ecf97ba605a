"""Writing a trained adapter as an ordinary PEFT folder."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from peft import LoraConfig, get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import Tensor

from lragent.adapters import read_adapter
from lragent.adapters.sidecar import SIDECAR_FILE, Sidecar
from lragent.files import write_atomically
from lragent.training.config import TrainConfig, TrainedFor
from lragent.training.errors import TrainingError

if TYPE_CHECKING:
    from peft import PeftModel

_WEIGHTS = "adapter_model.safetensors"


def save_adapter(
    model: PeftModel, role: str, config: TrainConfig, card: str, acting: Sequence[int] = ()
) -> None:
    """Write one role's adapter, its sidecar and its model card to `out/role`.

    The folder appears by one rename, so an adapter that is there is complete.
    """
    part = config.out / f".{role}.part"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    dtype: torch.dtype = getattr(torch, config.save_dtype)
    state = get_peft_model_state_dict(model, adapter_name=role, save_embedding_layers=False)
    weights = {name: value.detach().to("cpu", dtype).contiguous() for name, value in state.items()}
    save_file(weights, part / _WEIGHTS, metadata={"format": "pt"})
    settings = cast(LoraConfig, model.peft_config[role])
    # The name that the user gave, so that the adapter is tied to no folder of this machine; and
    # a list, since the order of a set would differ from run to run.
    settings.base_model_name_or_path = config.model
    settings.inference_mode = True
    settings.target_modules = sorted(config.targets)
    settings.save_pretrained(str(part))
    write_sidecar(
        part,
        config.group_name,
        role,
        config.trained_for.value,
        config.shared_projections,
        acting,
    )
    (part / "README.md").write_text(card, encoding="utf-8")
    target = config.out / role
    if target.exists():
        shutil.rmtree(target)
    part.replace(target)


def write_sidecar(
    folder: Path | str,
    group: str,
    role: str,
    trained_for: str,
    shared_projections: Iterable[str] = (),
    acting_tokens: Sequence[int] = (),
) -> None:
    """Note in an adapter's folder what it was trained for: `lragent.json`, which loading reads.

    Args:
        folder: of a saved PEFT adapter.
        group: name of the adapters that are to share.
        role: the adapter's name among them.
        trained_for: the policy; `neutral` after `prepare_for_neutral`.
        shared_projections: those whose A is equal in the whole group, such as `v_proj`.
        acting_tokens: ids of the tokens from which the adapter acts; none for the prompt's last.

    Raises:
        AdapterError: the folder holds no adapter that can be served.
        TrainingError: another policy, or a projection that the adapter does not change.
    """
    if trained_for not in list(TrainedFor):
        raise TrainingError(
            f"{trained_for!r} is no policy to train for; there are {', '.join(TrainedFor)}"
        )
    path = Path(folder) / SIDECAR_FILE
    path.unlink(missing_ok=True)
    digests = read_adapter(folder).a_digests
    if missing := set(shared_projections) - set(digests):
        raise TrainingError(f"the adapter in {folder} has no LoRA on {', '.join(sorted(missing))}")
    sidecar = Sidecar(
        schema=1,
        group=group,
        role=role,
        a_digest={name: digests[name] for name in shared_projections},
        trained_for=TrainedFor(trained_for).value,
        acting_tokens=list(acting_tokens) or None,
    )
    write_atomically(path, sidecar.model_dump_json(by_alias=True, indent=2) + "\n")


def saved_weights(folder: Path) -> dict[str, Tensor]:
    """Weights of a saved adapter, by the names that the layers have in a PEFT model."""
    return load_file(folder / _WEIGHTS)
