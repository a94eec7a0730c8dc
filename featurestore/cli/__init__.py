"""The command line: the group, and the commands of the store."""

from featurestore.cli.group import main

__all__ = ["main"]
