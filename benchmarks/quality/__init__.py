"""What sharing does to answers that agents reach by themselves: a base model and roles are trained,
and the roles answer questions under each policy. See benchmarks/README.md.
"""

import os

# Where JAX is installed, the search library starts it, and it would take most of the GPU's memory.
os.environ.setdefault("JAX_PLATFORMS", "cpu")

READING, READING_HELD_OUT = "reading.jsonl.gz", "reading_held_out.jsonl.gz"
"""What the base model is fine-tuned on, and what that is watched by."""

ROLES_TRAIN, ROLES_HELD_OUT = "roles.jsonl.gz", "roles_held_out.jsonl.gz"
"""Samples of the roles for training, and for the teacher-forced meter."""

TEXT = "text.txt.gz"
"""Text for the curve over context lengths."""

TASK_FILE = "task-{}.json.gz"

LOG = "reading.json"
"""In the fine-tuned model's folder: how its training went."""

TOGETHER = "together"
"""Among a result's tasks: the questions of all of them."""
