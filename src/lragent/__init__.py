"""One KV cache for several LoRA agents over one base model."""

__version__ = "0.1.0"
