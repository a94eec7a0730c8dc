"""Which encoder is the active one, and which is no longer wanted."""

from featurestore.errors import FeatureStoreError
from featurestore.store.store import Store


def find_encoder(store: Store, encoder: str | None) -> str:
    """The encoder of that id, or the active one."""
    known: dict[str, bool] = dict(store.sql("SELECT encoder_id, active FROM encoders").fetchall())
    if not known:
        raise FeatureStoreError(
            f'{store.path} holds no embeddings - "featurestore embed {store.path} MODEL" makes them'
        )
    if encoder is None:
        return next(encoder_id for encoder_id, active in known.items() if active)
    if encoder not in known:
        raise FeatureStoreError(
            f"{store.path} holds no encoder {encoder} - it has {', '.join(sorted(known))}"
        )
    return encoder


def promote(store: Store, encoder: str) -> None:
    """Make an encoder of the store the active one; scorers stay with their own."""
    encoder = find_encoder(store, encoder)
    with store.transaction("promote") as transaction:
        transaction.con.execute("UPDATE encoders SET active = (encoder_id = $1)", [encoder])
        transaction.counts["active"] = encoder


def drop_encoder(store: Store, encoder: str, force: bool = False) -> int:
    """Remove an encoder and its vectors; return how many windows went.

    Raises FeatureStoreError for the active one and, unless `force` is given, for one that scorers
    were trained on: they stay, but can score nothing any more.
    """
    with store.lock("drop-encoder"):
        encoder = find_encoder(store, encoder)
        if store.one("SELECT active FROM encoders WHERE encoder_id = $e", e=encoder)[0]:
            raise FeatureStoreError(
                f'{encoder} is the active encoder - "featurestore promote {store.path} '
                'ENCODER_ID" makes another one active first'
            )
        scorers = [
            scorer
            for (scorer,) in store.sql(
                "SELECT scorer_id FROM scorers WHERE encoder_id = $e ORDER BY 1", e=encoder
            ).fetchall()
        ]
        if scorers and not force:
            raise FeatureStoreError(
                f"{', '.join(scorers)} can score nothing without the vectors of {encoder} - say "
                "drop-encoder --force where they are no longer wanted"
            )
        with store.transaction("drop-encoder") as transaction:
            windows: int = transaction.con.execute(
                "DELETE FROM embeddings WHERE encoder_id = $1", [encoder]
            ).fetchall()[0][0]
            for table in (
                "admission_embeddings",
                "archived_admission_embeddings",
                "nightly_embedding_stats",
                "encoders",
            ):
                transaction.con.execute(f"DELETE FROM {table} WHERE encoder_id = $1", [encoder])
            transaction.counts.update(dropped=encoder, windows=windows)
    return windows
