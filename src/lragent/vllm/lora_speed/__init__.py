"""What makes vLLM's own LoRA faster. It has nothing to do with sharing."""
