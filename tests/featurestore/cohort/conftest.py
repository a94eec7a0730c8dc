"""A store of a synthetic hospital, shared by the tests of cohorts."""

import pytest

from featurestore import create_store, sync, write_hospital


@pytest.fixture(scope="session")
def synthetic_store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cohort")
    write_hospital(folder / "hospital", 300, notes_per_stay=1)
    opened = create_store(folder / "w.duckdb", folder / "hospital", "mimic3")
    sync(opened)
    return opened
