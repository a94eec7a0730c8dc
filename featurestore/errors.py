"""Every error that a caller may want to catch."""


class FeatureStoreError(Exception):
    """A job cannot go on; the message is one line for the user and holds no note text."""


class StoreBusyError(FeatureStoreError):
    """Another job holds the store's lock (exit status 75)."""
