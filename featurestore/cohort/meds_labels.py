"""Labels in the format of MEDS, the Medical Event Data Standard."""

from pathlib import Path

from featurestore.cohort.tasks import Task, find_task
from featurestore.store.files import private_file
from featurestore.store.sql_files import read_sql
from featurestore.store.store import Store


def write_meds(
    store: Store,
    file: str | Path,
    task: Task | None = None,
    cutoff: str | None = None,
) -> int:
    """Write the labels of the predicted admissions to a Parquet file; return their number.

    The columns are those of MEDS 0.4's label schema: subject_id, prediction_time, boolean_value.
    The file is private (0600). Raises FeatureStoreError where it cannot be written.
    """
    import pyarrow.parquet as pq

    task = task or find_task(store)
    file = store.output_file(file, ".parquet")
    labels = store.sql(
        read_sql("cohort/meds_labels"), labels=task.labels, cutoff=task.cutoff(store, cutoff)
    ).to_arrow_table()
    with private_file(file) as stream:
        pq.write_table(labels, stream)
    return len(labels)
