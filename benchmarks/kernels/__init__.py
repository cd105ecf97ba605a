"""The kernels by themselves, against FlashAttention 3."""
