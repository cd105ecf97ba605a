"""Plan/act/reflect workflows with tools, over any engine with a chat interface.

Backends are in `lragent.agents.engine_backend` (needs torch) and `lragent.agents.openai_backend`.
"""

from lragent.agents.backend import (
    BackendError,
    CallChunk,
    CallParams,
    CallUsage,
    ChatBackend,
    ContextOverflowError,
)
from lragent.agents.options import WorkflowOptions
from lragent.agents.prompts import SYSTEM_PROMPT, Role, Trajectory, Turn
from lragent.agents.results import (
    AgentEvent,
    AgentResult,
    CallRecord,
    EventKind,
    Status,
    Verdict,
)
from lragent.agents.scores import exact_match, f1_score, normalize_answer
from lragent.agents.tools import Document, DocumentError, DocumentStore
from lragent.agents.trace import RunTrace, TraceReadError, TraceWriteError
from lragent.agents.workflow import PlanActReflect

__all__ = [
    "SYSTEM_PROMPT",
    "AgentEvent",
    "AgentResult",
    "BackendError",
    "CallChunk",
    "CallParams",
    "CallRecord",
    "CallUsage",
    "ChatBackend",
    "ContextOverflowError",
    "Document",
    "DocumentError",
    "DocumentStore",
    "EventKind",
    "PlanActReflect",
    "Role",
    "RunTrace",
    "Status",
    "TraceReadError",
    "TraceWriteError",
    "Trajectory",
    "Turn",
    "Verdict",
    "WorkflowOptions",
    "exact_match",
    "f1_score",
    "normalize_answer",
]
