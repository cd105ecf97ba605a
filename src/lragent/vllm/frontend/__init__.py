"""What runs where vLLM builds its configuration, and in its HTTP server."""
