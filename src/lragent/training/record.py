"""The record in the output folder by which a run that was interrupted is continued."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from lragent.files import write_atomically
from lragent.training.config import TrainConfig
from lragent.training.errors import TrainingError
from lragent.training.report import RoleResult
from lragent.training.samples import DataFile

_RECORD = "training.json"
CHECKPOINTS = ".checkpoints"


class Record(BaseModel):
    """Settings and data of the run in a folder, its acting text, and which roles are finished."""

    model_config = ConfigDict(extra="forbid")

    settings: dict[str, object]
    data: list[str]
    acting_text: str | None = None
    finished: dict[str, RoleResult] = {}

    def save(self, out: Path) -> None:
        """Replace the record in `out` by this one."""
        write_atomically(out / _RECORD, self.model_dump_json(indent=2) + "\n")


def open_record(config: TrainConfig, files: Sequence[DataFile]) -> Record:
    """Start a run in the output folder, or find the one to continue.

    Raises:
        TrainingError: the folder holds a run with other settings or data, or other files.
    """
    wanted = Record(settings=config.deciding(), data=[file.sha256 for file in files])
    if config.overwrite:
        _clear(config)
    found = _read(config.out)
    if found is None:
        if taken := [role for role in config.roles if (config.out / role).exists()]:
            raise TrainingError(
                f"{config.out / taken[0]} exists and was not made by a training run: choose "
                "another --out, or replace it with --overwrite"
            )
        config.out.mkdir(parents=True, exist_ok=True)
        wanted.save(config.out)
        return wanted
    changed = [
        f"{name} ({found.settings.get(name)!r}, now {value!r})"
        for name, value in wanted.settings.items()
        if found.settings.get(name) != value
        and (name, value) != ("acting_text", found.acting_text)  # as the model card states it
    ]
    if found.data != wanted.data:
        changed.append("the data")
    if changed:
        raise TrainingError(
            f"{config.out} holds a run with other settings: {', '.join(changed)}. Choose another "
            "--out, or start over with --overwrite"
        )
    # A folder that was deleted by hand is trained again.
    found.finished = {
        role: result
        for role, result in found.finished.items()
        if (config.out / role / "adapter_model.safetensors").is_file()
    }
    return found


def _read(out: Path) -> Record | None:
    path = out / _RECORD
    if not path.is_file():
        return None
    try:
        return Record.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise TrainingError(f"{path} is damaged: start over with --overwrite") from error


def _clear(config: TrainConfig) -> None:
    for folder in (CHECKPOINTS, *config.roles):
        if (config.out / folder).exists():
            shutil.rmtree(config.out / folder)
    (config.out / _RECORD).unlink(missing_ok=True)
