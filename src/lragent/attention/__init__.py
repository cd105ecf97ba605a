"""Flash-LoRA-Attention over paged KV caches."""

from lragent.attention.base import (
    AttentionBatch,
    KeyRotation,
    LoraTables,
    PageViews,
    UnsupportedError,
    page_views,
)
from lragent.attention.cpu.head_major import head_major_pages
from lragent.attention.registry import (
    Implementation,
    choose,
    flash_lora_attention,
    project_lr,
    write_pages,
)

__all__ = [
    "AttentionBatch",
    "Implementation",
    "KeyRotation",
    "LoraTables",
    "PageViews",
    "UnsupportedError",
    "choose",
    "flash_lora_attention",
    "head_major_pages",
    "page_views",
    "project_lr",
    "write_pages",
]
