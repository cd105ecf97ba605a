"""The entry point that vLLM calls in each of its processes."""

from __future__ import annotations


def register() -> None:
    """Put the plugin's hooks into vLLM.

    They act only in engines whose ``additional_config`` has the key ``lragent``. Where this vLLM is
    not one that the plugin knows, nothing is hooked, and such an engine is refused at its start.
    """
    from lragent.vllm.compat import drift
    from lragent.vllm.config_hook import install as install_config

    problem = drift()
    install_config(problem)
    if problem is None:
        from lragent.vllm import core_hooks, frontend_hooks, worker_hooks

        frontend_hooks.install()
        core_hooks.install()
        worker_hooks.install()
