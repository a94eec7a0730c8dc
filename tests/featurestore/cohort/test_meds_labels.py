"""Labels in the format of MEDS."""

import pyarrow.parquet
import pytest

from featurestore.cohort.meds_labels import write_meds
from featurestore.errors import FeatureStoreError


def test_meds_labels_are_valid_by_the_meds_package(synthetic_store, tmp_path):
    from meds import LabelSchema

    count = write_meds(synthetic_store, tmp_path / "labels.parquet", cutoff="discharge")
    labels = pyarrow.parquet.read_table(tmp_path / "labels.parquet")
    LabelSchema.validate(labels)
    assert labels.num_rows == count > 100
    assert (tmp_path / "labels.parquet").stat().st_mode & 0o777 == 0o600
    rows = synthetic_store.sql(
        "SELECT subject_id, prediction_time, label FROM readmission_labels() "
        "INNER JOIN prediction_times(cutoff := 'discharge') USING (hadm_id) "
        "WHERE label IS NOT NULL ORDER BY ALL"
    ).fetchall()
    columns = [
        labels[name].to_pylist() for name in ("subject_id", "prediction_time", "boolean_value")
    ]
    assert sorted(zip(*columns, strict=True)) == rows


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"file": "labels.csv"}, "name a .parquet file"),
        ({"cutoff": "3days"}, "unknown cutoff 3days"),
    ],
)
def test_meds_labels_that_cannot_be_written(synthetic_store, tmp_path, settings, message):
    settings = {"file": "labels.parquet"} | settings
    with pytest.raises(FeatureStoreError, match=message):
        write_meds(synthetic_store, **settings | {"file": tmp_path / settings["file"]})
    assert list(tmp_path.iterdir()) == []
