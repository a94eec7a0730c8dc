"""What a user did or met that stops a job: a sentence that says what, where, and what next."""


class FeatureStoreError(Exception):
    """A job cannot go on; the message is one line for the user and holds no note text."""


class StoreBusyError(FeatureStoreError):
    """Another job holds the store's lock (exit status 75)."""
