"""Every error that a caller may want to catch, a class per fact.

Each message is one line for the user, says what, where and what to do next, and holds no note text.
"""


class FeatureStoreError(Exception):
    """A job cannot continue; the base class of all errors of this project."""


class StoreNotFoundError(FeatureStoreError):
    """There is no store at the path."""


class StoreBusyError(FeatureStoreError):
    """Another job holds the store's lock (exit status 75)."""


class StoreDamagedError(FeatureStoreError):
    """The file is not the one that the last job left, or cannot be read as a store."""


class StoreChangedWarning(UserWarning):
    """Another program has written to the store, and nobody has accepted that yet."""

    def __init__(self, store: object, run_id: int) -> None:
        super().__init__(
            f"another program has changed {store} since run {run_id} - "
            f'"featurestore verify {store}" says what, and with --accept records that it was meant'
        )


class EncryptionKeyError(FeatureStoreError):
    """The key of an encrypted store is missing, wrong, too short or readable by others."""


class SourceError(FeatureStoreError):
    """The hospital's tables cannot be read, or are not what the schema needs."""


class ModelError(FeatureStoreError):
    """A checkpoint, model folder or its vectors are refused: changed, damaged or unsuited."""


class UnknownNameError(FeatureStoreError):
    """The store holds no encoder, scorer, run, admission or patient of that name."""


class NotEnoughDataError(FeatureStoreError):
    """There are too few labelled admissions or notes to train or score."""


class UnusualNightError(FeatureStoreError):
    """The checks of a nightly run stopped its commit."""


class QueryError(FeatureStoreError):
    """A query is refused, fails or takes too long."""
