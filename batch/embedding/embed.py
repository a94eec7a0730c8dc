"""Embed pending notes and commit the vectors: one vector per window of each ready note."""

from collections.abc import Sequence
from datetime import datetime

from batch.embedding.admission_means import refresh_means
from batch.embedding.commit import commit_staged, drop_stale_vectors, is_out_of_date
from batch.embedding.covariates import refresh_covariates
from batch.embedding.encoder import Encoder
from batch.embedding.staging import Progress, stage
from featurestore.errors import UnknownNameError
from featurestore.store.store import Store


def embed_pending(
    store: Store,
    encoder: Encoder,
    limit: int | None = None,
    progress: Progress | None = None,
    categories: Sequence[str] = (),
    ray: str | None = None,
) -> dict[str, int]:
    """Embed every note that is new or whose text changed; return the counts.

    Windows are staged as they are embedded, so a run that is killed loses at most one chunk of
    notes; one commit at the end stores them. It also deletes the vectors of notes that were edited,
    flagged as errors or withdrawn, updates those of notes that moved to another admission, and
    recomputes the means of their admissions. Nothing is written if nothing changed.

    `limit` is the maximum number of notes to embed now. `categories` selects note categories
    (default: all). `progress` is called after every batch with the notes read, the notes to read
    and the throughput. `ray` embeds on Ray: "local" on this machine, a worker for each GPU or group
    of cores, or HOST:PORT on a cluster that this machine is a node of. Raises FeatureStoreError,
    UnknownNameError for a category that no note has.
    """
    started_at = datetime.now()
    with store.lock("embed"):
        if categories:
            _check_categories(store, categories)
        staged = stage(store, encoder, limit, progress, categories, ray=ray)
        if staged or is_out_of_date(store):
            with store.transaction("embed", started_at) as transaction:
                commit_staged(transaction, encoder, staged)
                refresh_covariates(store, transaction.con)
                transaction.counts.update(staged.counts, provider=staged.provider)
                transaction.counts.update(staged.memory)
        staged.shards.clear()
    return staged.counts


def _check_categories(store: Store, categories: Sequence[str]) -> None:
    query = "SELECT DISTINCT category FROM notes"
    known = {category for (category,) in store.sql(query).fetchall()}
    for category in categories:
        if category not in known:
            raise UnknownNameError(
                f"no note of {store.path} has the category {category} - "
                f"\"featurestore sql {store.path} '{query}'\" lists them"
            )


def update_embeddings(store: Store, also: str | None = None) -> None:
    """Update vectors and means of notes that the last sync changed, without embedding new text.

    `also` is a cutoff at which means are needed, beside the kept ones, until the next update.
    """
    with store.lock("embed"):
        if is_out_of_date(store, also):
            with store.transaction("embed") as transaction:
                drop_stale_vectors(transaction.con)
                refresh_means(transaction.con, also)
                refresh_covariates(store, transaction.con)
