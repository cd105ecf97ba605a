"""Plan/act/reflect workflows with tools, over any engine with a chat interface."""
