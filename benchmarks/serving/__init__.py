"""vLLM with and without the plugin, on the same requests."""
