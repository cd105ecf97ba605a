"""What the operator of a server decides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class ServerOptions:
    """Options of the HTTP side; those of the model are the engine's.

    Attributes:
        base_model: what requests call the base model.
        adapter_paths: folders of the adapters that the engine was started with, to be shown.
        api_key: what requests to `/v1` must bring as bearer token; None asks for none.
        max_body_bytes: longest body of a request.
        max_answers: most answers that one request may ask for, all its prompts together.
        runtime_adapters: whether clients may load and unload adapters.
        show_texts: whether the page shows prompts and answers, or only their numbers.
        grace_s: seconds that running requests get to finish when the server stops.
    """

    base_model: str
    adapter_paths: Mapping[str, str] = field(default_factory=dict)
    api_key: str | None = None
    max_body_bytes: int = 4 << 20
    max_answers: int = 128
    runtime_adapters: bool = False
    show_texts: bool = True
    grace_s: float = 30.0
