"""Timelines of patients, as tuples, in a fresh in-memory store."""

from datetime import datetime, timedelta

import duckdb
import pyarrow as pa

from featurestore.store.schema import TABLES, VIEWS_AND_MACROS, make_objects

COLUMNS = (
    "hadm_id, subject_id, admittime, dischtime, deathtime, died_in_hospital, admission_type, "
    "planned, discharge_location, dod"
)


def day(number, hour=12, minute=0, second=0):
    """Noon, or another hour, of the n-th day of a patient's time."""
    return datetime(2150, 1, 1, hour, minute, second) + timedelta(days=number)


def stay(
    hadm_id,
    admitted,
    discharged,
    kind="EMERGENCY",
    *,
    to="HOME",
    died=None,
    flag=False,
    dod=None,
    patient=1,
):
    """A row of admissions; `died` is its deathtime, `flag` its expire flag."""
    planned = kind in ("ELECTIVE", "SURGICAL SAME DAY ADMISSION")
    return (hadm_id, patient, admitted, discharged, died, flag, kind, planned, to, dod)


def empty_store(*, observed_until=None):
    """Every table, view and macro of a store, in memory; live where it is observed until a time."""
    con = duckdb.connect(":memory:")
    make_objects(con, TABLES + VIEWS_AND_MACROS)
    con.execute(
        "INSERT INTO settings VALUES ('-', '-', $1, $2, '')",
        [bool(observed_until), observed_until],
    )
    return con


def store_with(stays, **settings):
    con = empty_store(**settings)
    if stays:
        columns = [pa.array(column) for column in zip(*stays, strict=True)]
        con.register("stays", pa.table(columns, names=COLUMNS.split(", ")))
        con.execute(f"INSERT INTO admissions ({COLUMNS}) SELECT {COLUMNS} FROM stays")
        con.unregister("stays")
    return con
