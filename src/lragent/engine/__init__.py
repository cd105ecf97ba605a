"""The embedded engine: Hugging Face models and PEFT adapters on one shared cache."""
