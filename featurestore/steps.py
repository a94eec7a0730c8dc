"""The steps of a job, each named before it begins: where tests make one fail, or kill it."""

STEPS = ("read", "encode", "shard", "copy", "insert", "checkpoint", "fsync", "rename", "clean")


def step(name: str) -> None:
    """Begin a step. It does nothing: a test puts a failure, a kill or a full disk in its place."""
