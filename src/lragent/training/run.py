"""Fine-tuning of one adapter for each role (paper, "Schemes": shared-A)."""

from __future__ import annotations

import shutil

from safetensors import SafetensorError

from lragent.adapters import read_adapter
from lragent.engine.validation import as_device
from lragent.training.config import Mode, TrainConfig
from lragent.training.determinism import deterministic
from lragent.training.errors import TrainingError
from lragent.training.record import CHECKPOINTS, open_record
from lragent.training.report import TrainedRole, TrainReport
from lragent.training.samples import read_samples, require_every_role
from lragent.training.session import Session


def train(config: TrainConfig, *, show_progress: bool = True) -> TrainReport:
    """Train the roles' adapters and write each to `config.out / role`.

    Run again after an interruption, it keeps the finished roles and continues the unfinished one
    from its last checkpoint, which gives the adapters that an uninterrupted run gives. The same
    run on the same kind of device with the same releases gives the same adapters, to the bit.

    Raises:
        TrainingError: bad samples, settings that fit no model, folder or device, a full disk.
        ModelUnavailableError: the base model cannot be loaded.
    """
    samples, files = read_samples(config.data, config.roles)
    require_every_role(samples)
    held_out, _ = read_samples(config.eval_data, config.roles)
    try:
        device = as_device(None if config.device == "auto" else config.device)
    except ValueError as error:
        raise TrainingError(str(error)) from None
    try:
        record = open_record(config, files)
        kept = set(record.finished)
        for roles in _rounds(config):
            if not kept.issuperset(roles):
                with deterministic():
                    Session(config, roles, record, files, device).run(
                        samples, held_out, show_progress
                    )
        shutil.rmtree(config.out / CHECKPOINTS, ignore_errors=True)
    except (OSError, SafetensorError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not _is_failed_write(error):
            raise
        raise TrainingError(
            f"{config.out} cannot be written: {error}. Make room and run the same command again; "
            "it continues where it stopped."
        ) from error
    trained = tuple(
        TrainedRole(
            folder=str(config.out / role),
            a_digests=dict(read_adapter(config.out / role).a_digests),
            kept=role in kept,
            result=record.finished[role],
        )
        for role in config.roles
    )
    return TrainReport(str(config.out), config.group_name, config.mode.value, trained)


def _rounds(config: TrainConfig) -> list[tuple[str, ...]]:
    """Roles that are trained on one model at a time."""
    return [config.roles] if config.mode is Mode.JOINT else [(role,) for role in config.roles]


def _is_failed_write(error: RuntimeError) -> bool:
    """torch.save reports a full disk as a RuntimeError of its zip writer."""
    return "PytorchStreamWriter" in str(error)
