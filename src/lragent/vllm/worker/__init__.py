"""What runs in vLLM's workers: LoRA layers, KV cache pages and attention."""
