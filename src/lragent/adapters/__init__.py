"""Read and check PEFT adapter folders; digests; sharing groups and their LR slots."""
