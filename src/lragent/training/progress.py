"""A progress bar for a training run, on stderr."""

from __future__ import annotations

import math
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from lragent.training.errors import TrainingError


class ProgressBar(TrainerCallback):
    """Shows steps, loss and remaining time; keeps all losses, and stops a run that diverges."""

    def __init__(self, title: str, shown: bool) -> None:
        """`title` says what is trained; nothing is drawn unless `shown`."""
        self.losses: list[float] = []
        self._title = title
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]}"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            disable=not shown,
        )

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Draw the bar, which a resumed run starts part of the way."""
        self.losses = [entry["loss"] for entry in state.log_history if "loss" in entry]
        self._bar.start()
        self._task = self._bar.add_task(
            self._title, total=state.max_steps, completed=state.global_step, loss="-"
        )

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Move the bar.

        Raises:
            TrainingError: the loss or its gradient is no longer a finite number.
        """
        if logs and "loss" in logs:
            if not all(map(math.isfinite, (logs["loss"], logs.get("grad_norm", 0.0)))):
                raise TrainingError(
                    f"{self._title} diverged at step {state.global_step}: loss {logs['loss']}, "
                    f"gradient {logs.get('grad_norm')}. Use a lower learning rate."
                )
            self.losses.append(logs["loss"])
            self._bar.update(self._task, completed=state.global_step, loss=f"{logs['loss']:.3f}")

    def close(self) -> None:
        """Leave the bar as it stands, also after a failure."""
        self._bar.stop()
