"""What sharing does to answers: roles trained for each policy, scored under each."""

TRAIN, HELD_OUT = "train.jsonl.gz", "held_out.jsonl.gz"
"""The sample files, which `samples` writes and `run` reads (without the agents' tools)."""

ROLES = ("plan", "act", "reflect")
