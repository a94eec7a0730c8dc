"""Named points of a job at which tests inject a failure, a kill or a full disk."""

FAILPOINTS = (
    *("read", "encode", "shard", "copy", "insert", "checkpoint", "fsync", "rename", "clean"),
)


def hit(name: str) -> None:
    """Pass a failpoint; do nothing. Tests replace this function."""
