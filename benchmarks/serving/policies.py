"""What is compared, by name.

- ``stock``: vLLM without the plugin, three adapters.
- ``stock-targets``: the same with ``--lora-target-modules``, so that vLLM's LoRA leaves those
  modules out that no adapter changes.
- ``isolated``, ``full``, ``base``, ``base+lr``, ``neutral``: the plugin's policies.
- ``neutral-page``: ``neutral``, where adapters act from the last tool's output on instead of the
  prompt's last token.
- ``…-vllm-lora``: a policy of the plugin without its option ``lora_speed``: vLLM's own LoRA.
- ``…-one``: all requests use one adapter. ``stock-one`` is the best that sharing could reach if
  the plugin changed nothing but the sharing.
- ``old:…``: a policy of the plugin, in the source tree of ``--other-source``.
"""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.common.adapters import AGENTS

STOCK, TARGETS = "stock", "stock-targets"
PLUGIN = ("isolated", "full", "base", "base+lr", "neutral")
ONE, VLLM_LORA, OLD, PAGE = "-one", "-vllm-lora", "old:", "-page"

_KINDS = (STOCK, TARGETS, *PLUGIN, "neutral" + PAGE, *(policy + VLLM_LORA for policy in PLUGIN))
NAMES = tuple(kind + one for kind in _KINDS for one in ("", ONE))

GUEST, HOST = "isolated", "base+lr"
"""Adapters outside of groups are isolated: one engine serves them beside a group."""


def kind_of(name: str) -> str:
    """``stock``, ``stock-targets`` or the plugin's policy."""
    return name.removeprefix(OLD).removesuffix(ONE).removesuffix(VLLM_LORA).removesuffix(PAGE)


def engine_of(name: str) -> str:
    """The engine that serves it, by the name of the policy that the engine is started with."""
    kind = HOST if kind_of(name) == GUEST else kind_of(name)
    return f"{OLD if is_old(name) else ''}{kind}{VLLM_LORA if has_vllm_lora(name) else ''}"


def is_old(name: str) -> bool:
    """Whether it is of the other source tree."""
    return name.startswith(OLD)


def has_vllm_lora(name: str) -> bool:
    """Whether the plugin leaves vLLM's LoRA as it is."""
    return name.removesuffix(ONE).endswith(VLLM_LORA)


def reads_page(name: str) -> bool:
    """Whether adapters act from the last tool's output on."""
    return name.removesuffix(ONE).endswith(PAGE)


def is_guest(name: str) -> bool:
    """Whether its requests go to adapters outside of the engine's group."""
    return kind_of(name) == GUEST


def is_stock(name: str) -> bool:
    """Whether it is vLLM without the plugin."""
    return kind_of(name) in (STOCK, TARGETS)


def keeps_copies(name: str) -> bool:
    """Whether each adapter has pages of its own for what all have read."""
    return not uses_one_adapter(name) and kind_of(name) in (STOCK, TARGETS, GUEST)


def uses_one_adapter(name: str) -> bool:
    """Whether all requests go to the first adapter."""
    return name.endswith(ONE)


def with_old(names: Sequence[str]) -> list[str]:
    """The names, the plugin's each followed by the same of the other source tree."""
    found = []
    for name in names:
        alone = is_stock(name) or has_vllm_lora(name)
        found += [name] if alone else [name, OLD + name]
    return found


def engines_of(names: Sequence[str]) -> dict[str, list[str]]:
    """The names by engine, both as they come in ``names``."""
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(engine_of(name), []).append(name)
    return found


def plugin_option(engine: str, folders: dict[str, str]) -> dict[str, object] | None:
    """The plugin's part of ``additional_config``; None for stock vLLM."""
    if is_stock(engine):
        return None
    return {
        "policy": kind_of(engine),
        "groups": [list(AGENTS)],
        "adapters": folders,
        "allow_other_base": True,
        **({"lora_speed": False} if has_vllm_lora(engine) else {}),
    }
