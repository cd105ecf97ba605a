"""What runs in vLLM's engine core: adapters, groups, block hashes, and hits."""
