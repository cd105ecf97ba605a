"""The entry point that vLLM calls in each of its processes."""

from __future__ import annotations


def register() -> None:
    """Put the plugin's hooks into vLLM.

    They act only in engines whose ``additional_config`` has the key ``lragent``. Where this vLLM is
    not one that the plugin knows, nothing is hooked, and such an engine is refused at its start.
    """
    from lragent.vllm.frontend.config_check import install as install_config
    from lragent.vllm.versions.symbols import drift

    problem = drift()
    install_config(problem)
    if problem is None:
        from lragent.vllm.core import hooks as core
        from lragent.vllm.frontend import hooks as frontend
        from lragent.vllm.worker import hooks as worker

        frontend.install()
        core.install()
        worker.install()
