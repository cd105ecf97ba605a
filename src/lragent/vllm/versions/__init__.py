"""Which vLLM the plugin knows, and what differs between its versions."""
