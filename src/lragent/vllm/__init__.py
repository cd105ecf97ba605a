"""The plugin that brings the shared cache into vLLM. Nothing happens on import.

vLLM finds it by its entry point (``lragent.vllm.plugin:register``), and it acts only in an engine
whose ``additional_config`` has the key ``lragent``.
"""
