"""The JSON record of a run."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

import lragent
from lragent.agents.prompts import Role, Turn
from lragent.agents.results import AgentResult, Status, Verdict
from lragent.agents.scores import exact_match, f1_score
from lragent.files import write_atomically


class TraceWriteError(RuntimeError):
    """A trace could not be saved; no partial file is left."""


class TraceReadError(ValueError):
    """A file is no trace; the message says why."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TraceCall(_Strict):
    """One model call: who wrote what, its tokens, and its times in seconds."""

    step: int
    role: Role
    kind: Turn
    adapter: str | None
    text: str
    finish_reason: str | None
    prompt_tokens: int
    reused_tokens: int | None
    generated_tokens: int
    ttft_s: float | None
    seconds: float


class RunTrace(_Strict):
    """One run. `gold`, `exact_match` and `f1` are set where the right answer is known."""

    schema_version: Literal[1] = 1
    lragent_version: str
    created: datetime
    model: str | None
    sharing: str | None
    question: str
    status: Status
    answer: str | None
    verdict: Verdict | None
    detail: str | None
    gold: str | None
    exact_match: bool | None
    f1: float | None
    steps: int
    prompt_tokens: int
    reused_tokens: int
    generated_tokens: int
    ttft_s: float
    seconds: float
    calls: list[TraceCall]
    transcript: str

    @classmethod
    def of(
        cls,
        result: AgentResult,
        *,
        model: str | None = None,
        sharing: str | None = None,
        gold: str | None = None,
    ) -> RunTrace:
        """The trace of a result."""
        answer = result.answer or ""
        return cls(
            lragent_version=lragent.__version__,
            created=datetime.now(UTC),
            model=model,
            sharing=sharing,
            question=result.question,
            status=result.status,
            answer=result.answer,
            verdict=result.verdict,
            detail=result.detail,
            gold=gold,
            exact_match=None if gold is None else exact_match(answer, gold),
            f1=None if gold is None else f1_score(answer, gold),
            steps=result.steps,
            prompt_tokens=result.prompt_tokens,
            reused_tokens=result.reused_tokens,
            generated_tokens=result.generated_tokens,
            ttft_s=result.ttft_s,
            seconds=result.seconds,
            calls=[
                TraceCall(
                    step=call.step,
                    role=call.role,
                    kind=call.turn,
                    adapter=call.adapter,
                    text=call.text,
                    finish_reason=call.finish_reason,
                    prompt_tokens=call.prompt_tokens,
                    reused_tokens=call.reused_tokens,
                    generated_tokens=call.generated_tokens,
                    ttft_s=call.ttft_s,
                    seconds=call.seconds,
                )
                for call in result.calls
            ],
            transcript=result.transcript,
        )

    def save(self, path: str | Path) -> None:
        """Write the trace as JSON, whole or not at all.

        Raises TraceWriteError when the folder or file cannot be written or the disk is full.
        """
        try:
            write_atomically(Path(path), self.model_dump_json(indent=2) + "\n")
        except OSError as error:
            reason = error.strerror or str(error)
            raise TraceWriteError(
                f"the trace {path} cannot be saved: {reason}; nothing was written. "
                "Free some space or choose another file"
            ) from error

    @classmethod
    def load(cls, path: str | Path) -> RunTrace:
        """Read a saved trace. Raises TraceReadError when it is missing or damaged."""
        try:
            return cls.model_validate_json(Path(path).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise TraceReadError(f"the trace {path} cannot be read: {error}") from error
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"])) or "file"
            raise TraceReadError(f"{path} is no trace: {place}: {first['msg']}") from error
