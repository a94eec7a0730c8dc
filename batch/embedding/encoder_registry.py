"""The encoders of a store: promote and drop them."""

from featurestore.errors import FeatureStoreError
from featurestore.store.changes import forget_up_to_date
from featurestore.store.integrity.checksums import delete_rows
from featurestore.store.store import Store
from featurestore.store.vectors import find_encoder


def promote(store: Store, encoder: str) -> None:
    """Make an encoder the active one; scorers keep the encoder they were trained on."""
    encoder = find_encoder(store, encoder)
    with store.transaction("promote") as transaction:
        transaction.con.execute("UPDATE encoders SET active = (encoder_id = $1)", [encoder])
        transaction.counts["active"] = encoder


def drop_encoder(store: Store, encoder: str, force: bool = False) -> int:
    """Remove an encoder and its vectors; return the number of windows removed.

    Raises FeatureStoreError for the active encoder and, unless `force` is given, for one that
    scorers were trained on: those scorers stay in the store, but cannot score any more.
    """
    with store.lock("drop-encoder"):
        encoder = find_encoder(store, encoder)
        if store.one("SELECT active FROM encoders WHERE encoder_id = $e", e=encoder)[0]:
            raise FeatureStoreError(
                f'{encoder} is the active encoder - "featurestore promote {store.path} '
                'ENCODER_ID" makes another one active first'
            )
        query = "SELECT scorer_id FROM scorers WHERE encoder_id = $e ORDER BY 1"
        scorers = [scorer_id for (scorer_id,) in store.sql(query, e=encoder).fetchall()]
        if scorers and not force:
            raise FeatureStoreError(
                f"{', '.join(scorers)} cannot score without the vectors of {encoder} - "
                "drop-encoder --force removes them anyway"
            )
        with store.transaction("drop-encoder") as transaction:
            con = transaction.con
            windows = delete_rows(con, "embeddings", "encoder_id = $1", [encoder])
            for table in (
                "admission_embeddings",
                "archived_admission_embeddings",
                "nightly_embedding_stats",
            ):
                delete_rows(con, table, "encoder_id = $1", [encoder])
            con.execute("DELETE FROM encoders WHERE encoder_id = $1", [encoder])
            forget_up_to_date(con, "vectors", [encoder])
            transaction.counts.update(dropped=encoder, windows=windows)
    return windows
