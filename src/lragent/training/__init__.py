"""Shared-A multi-LoRA fine-tuning."""
