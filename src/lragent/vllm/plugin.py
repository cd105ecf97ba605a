"""The entry point that vLLM calls in each of its processes."""

from __future__ import annotations


def register() -> None:
    """Put the plugin's hooks into vLLM.

    They act only in engines whose ``additional_config`` has the key ``lragent``. Where this vLLM is
    not one that the plugin knows, nothing is hooked, and such an engine is refused at its start.
    """
    from lragent.vllm.frontend.config_check import config_hook
    from lragent.vllm.versions.guard import drift, hooks

    problem = drift()
    config_hook(problem).install()
    if problem is None:
        from lragent.vllm.core.hooks import add_utilities

        for hook in hooks():
            hook.install()
        add_utilities()
