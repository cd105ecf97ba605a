"""Flash-LoRA-Attention over paged KV caches."""
