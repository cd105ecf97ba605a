"""A ``LoRARequest`` that stands for a content."""

# pyright: reportMissingImports=false

from __future__ import annotations

from typing import Any

from vllm.lora.request import LoRARequest

from lragent.vllm.core.adapters import Content


def request_for(content: Content, original: Any) -> Any:
    """What workers get in place of the client's request.

    Its number, name and path are the content's, so that two names of one content use one place,
    and other weights under a name that was used before can never be mixed up with the old ones.
    """
    return LoRARequest(
        lora_name=f"lragent:{content.digest}",
        lora_int_id=content.int_id,
        lora_path=content.folder,
        base_model_name=original.base_model_name,
    )
