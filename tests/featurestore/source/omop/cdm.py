"""Small hospitals in OMOP's tables, and MIMIC-III's tables as OMOP would hold them."""

import csv
import sqlite3
from datetime import date, datetime, timedelta
from itertools import cycle

import duckdb
import pyarrow as pa

from tests.timeline import day

# The columns that the schema reads, with the types of OHDSI's DDL for version 5.4.
TABLES = {
    "person": {
        "person_id": "BIGINT",
        "gender_concept_id": "INTEGER",
        "year_of_birth": "INTEGER",
        "month_of_birth": "INTEGER",
        "day_of_birth": "INTEGER",
        "birth_datetime": "TIMESTAMP",
        "race_concept_id": "INTEGER",
        "ethnicity_concept_id": "INTEGER",
        "gender_source_value": "VARCHAR(50)",
        "race_source_value": "VARCHAR(50)",
    },
    "visit_occurrence": {
        "visit_occurrence_id": "BIGINT",
        "person_id": "BIGINT",
        "visit_concept_id": "INTEGER",
        "visit_start_date": "DATE",
        "visit_start_datetime": "TIMESTAMP",
        "visit_end_date": "DATE",
        "visit_end_datetime": "TIMESTAMP",
        "visit_type_concept_id": "INTEGER",
        "visit_source_concept_id": "INTEGER",
        "discharged_to_concept_id": "INTEGER",
        "discharged_to_source_value": "VARCHAR(50)",
        "preceding_visit_occurrence_id": "BIGINT",
    },
    "visit_detail": {
        "visit_detail_id": "BIGINT",
        "person_id": "BIGINT",
        "visit_detail_concept_id": "INTEGER",
        "visit_detail_start_date": "DATE",
        "visit_detail_start_datetime": "TIMESTAMP",
        "visit_detail_end_date": "DATE",
        "visit_detail_end_datetime": "TIMESTAMP",
        "visit_detail_source_value": "VARCHAR(50)",
        "visit_occurrence_id": "BIGINT",
    },
    "condition_occurrence": {
        "person_id": "BIGINT",
        "condition_source_concept_id": "INTEGER",
        "visit_occurrence_id": "BIGINT",
    },
    "death": {"person_id": "BIGINT", "death_date": "DATE", "death_datetime": "TIMESTAMP"},
    "payer_plan_period": {
        "person_id": "BIGINT",
        "payer_plan_period_start_date": "DATE",
        "payer_plan_period_end_date": "DATE",
        "payer_source_value": "VARCHAR(50)",
    },
    "note": {
        "note_id": "BIGINT",
        "person_id": "BIGINT",
        "visit_occurrence_id": "BIGINT",
        "note_date": "DATE",
        "note_datetime": "TIMESTAMP",
        "note_class_concept_id": "INTEGER",
        "note_title": "VARCHAR(250)",
        "note_text": "TEXT",
        "note_source_value": "VARCHAR(50)",
    },
    "concept": {
        "concept_id": "INTEGER",
        "concept_name": "VARCHAR(255)",
        "vocabulary_id": "VARCHAR(50)",
        "concept_code": "VARCHAR(50)",
    },
    "cdm_source": {"source_release_date": "DATE"},
}
ELECTIVE, NURSING_NOTE = 2_000_000_001, 2_000_000_002  # a site's own concepts start at 2 billion


# --- rows


def person(person_id=1, **others):
    """A woman born in 2090, sixty years before the timeline."""
    row = {"person_id": person_id, "gender_concept_id": 8532, "year_of_birth": 2090}
    return row | others


def visit(visit_id, start, end, concept=9201, *, person_id=1, to=0, **others):
    """A visit with dates and times; `to` is the concept of the place of discharge."""
    row = {
        "visit_occurrence_id": visit_id,
        "person_id": person_id,
        "visit_concept_id": concept,
        "visit_start_date": start.date(),
        "visit_start_datetime": start,
        "visit_end_date": end.date(),
        "visit_end_datetime": end,
        "visit_type_concept_id": 32817,
        "discharged_to_concept_id": to,
    }
    return row | others


def note(note_id, visit_id, written=None, text="lives alone", *, person_id=1, **others):
    """A note, by default of the second day, whose class has no concept."""
    written = written or day(1)
    row = {
        "note_id": note_id,
        "person_id": person_id,
        "visit_occurrence_id": visit_id,
        "note_date": written.date(),
        "note_datetime": written,
        "note_class_concept_id": 0,
        "note_text": text,
    }
    return row | others


def concept(concept_id, name, vocabulary="None", code=None):
    return {
        "concept_id": concept_id,
        "concept_name": name,
        "vocabulary_id": vocabulary,
        "concept_code": code,
    }


def hospital(visits, notes=(), *, persons=None, **tables):
    """Return OMOP's tables as lists of rows; the other tables are empty where not given."""
    numbers = sorted({row["person_id"] for row in visits})
    rows = {
        "person": persons or [person(number) for number in numbers],
        "visit_occurrence": visits,
        "note": notes or [note(1, visits[0]["visit_occurrence_id"], person_id=numbers[0])],
        **tables,
    }
    rows["concept"] = [concept(0, "No matching concept"), *rows.get("concept", [])]
    return {name: list(rows.get(name, [])) for name in TABLES}


# --- writers


def load_duckdb(con, tables):
    """Create the tables in a DuckDB connection."""
    for name, columns in TABLES.items():
        con.execute(f"CREATE TABLE {name} ({', '.join(map(' '.join, columns.items()))})")
        rows = pa.table({column: [row.get(column) for row in tables[name]] for column in columns})
        con.register("rows", rows)
        con.execute(f"INSERT INTO {name} FROM rows")


def write_folder(folder, tables, suffix="parquet", before=None):
    """Write a file per table; `before` is SQL that changes the tables first."""
    folder.mkdir()
    with duckdb.connect() as con:
        load_duckdb(con, tables)
        con.execute(before or "")
        for name in TABLES:
            options = "" if suffix == "parquet" else "(HEADER)"
            con.execute(f"COPY {name} TO '{folder / name}.{suffix}' {options}")
    return folder


def write_sqlite(file, tables):
    """Write a SQLite file, in which dates and times are text."""
    with sqlite3.connect(file) as con:
        for name, columns in TABLES.items():
            con.execute(f"CREATE TABLE {name} ({', '.join(map(' '.join, columns.items()))})")
            marks = ", ".join("?" for _ in columns)
            con.executemany(
                f"INSERT INTO {name} VALUES ({marks})",
                [[_sqlite_value(row.get(column)) for column in columns] for row in tables[name]],
            )
    con.close()
    return file


def write_postgres(url, tables, schema="cdm"):
    """Create the tables in a schema of a PostgreSQL database."""
    import psycopg

    with psycopg.connect(url) as con, con.cursor() as cursor:
        cursor.execute(f"CREATE SCHEMA {schema}")
        for name, columns in TABLES.items():
            typed = ", ".join(map(" ".join, columns.items()))
            cursor.execute(f"CREATE TABLE {schema}.{name} ({typed})")
            marks = ", ".join("%s" for _ in columns)
            cursor.executemany(
                f"INSERT INTO {schema}.{name} VALUES ({marks})",
                [[row.get(column) for column in columns] for row in tables[name]],
            )


def write_mariadb(con, tables, database="cdm"):
    """Create the tables in a new database of a MariaDB server."""
    con.exec_driver_sql(f"CREATE DATABASE {database} CHARACTER SET utf8mb4")
    con.exec_driver_sql(f"USE {database}")
    for name, columns in TABLES.items():
        typed = ", ".join(map(" ".join, columns.items())).replace("TIMESTAMP", "DATETIME")
        con.exec_driver_sql(f"CREATE TABLE {name} ({typed})")
        rows = [tuple(row.get(column) for column in columns) for row in tables[name]]
        if rows:
            marks = ", ".join("%s" for _ in columns)
            con.exec_driver_sql(f"INSERT INTO {name} VALUES ({marks})", rows)
    con.commit()


def _sqlite_value(value):
    return (
        value.isoformat(" ")
        if isinstance(value, datetime)
        else (value.isoformat() if isinstance(value, date) else value)
    )


# --- MIMIC-III as OMOP

DESTINATIONS = {
    "DEAD/EXPIRED": 4216643,
    "LEFT AGAINST MEDICAL ADVI": 4021968,
    "SHORT TERM HOSPITAL": 8717,
    "SNF": 8863,
    "REHAB/DISTINCT PART HOSP": 8920,
}
NEVER = {"DEATHTIME": ""}
ETHNICITIES = {  # race, ethnicity
    "WHITE": (8527, 0),
    "BLACK/AFRICAN AMERICAN": (8516, 0),
    "ASIAN": (8515, 0),
    "HISPANIC OR LATINO": (0, 38003563),
}


def read_csv(file):
    with file.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def from_mimic3(folder):
    """Return the tables of a hospital of MIMIC-III as OMOP's tables.

    As in real conversions, half of the deaths in hospital are only in the table death, and visits
    without a stay stand beside the stays.
    """
    admissions = read_csv(folder / "ADMISSIONS.csv")
    patients = read_csv(folder / "PATIENTS.csv")
    of_patient = {row["SUBJECT_ID"]: row for row in admissions}
    died = first_deaths(admissions)
    in_table_only = {row["HADM_ID"] for row in [*died.values()][::2]}
    stays = [_visit(row, row["HADM_ID"] in in_table_only) for row in admissions]
    diagnoses = read_csv(folder / "DIAGNOSES_ICD.csv")
    codes = sorted({row["ICD9_CODE"] for row in diagnoses})
    of_code = {code: 44_000_000 + number for number, code in enumerate(codes)}
    clinic_day = datetime(2100, 1, 1, 9)
    others = [
        visit(
            -number, clinic_day, clinic_day + timedelta(hours=2), kind, person_id=stay["person_id"]
        )
        for number, (stay, kind) in enumerate(zip(stays, cycle((9202, 9203)), strict=False), 1)
    ]
    emergencies = [_emergency(row) for row in admissions if row["EDREGTIME"]]
    return hospital(
        stays + others + emergencies,
        [_note(row) for row in read_csv(folder / "NOTEEVENTS.csv")],
        persons=[_person(row, of_patient[row["SUBJECT_ID"]]) for row in patients],
        death=[
            {
                "person_id": int(row["SUBJECT_ID"]),
                "death_date": _time(row["DOD"]).date(),
                "death_datetime": _time(died.get(row["SUBJECT_ID"], NEVER)["DEATHTIME"]),
            }
            for row in patients
            if row["DOD"]
        ],
        payer_plan_period=[
            {
                "person_id": int(subject_id),
                "payer_plan_period_start_date": date(2090, 1, 1),
                "payer_plan_period_end_date": date(2299, 12, 31),
                "payer_source_value": row["INSURANCE"],
            }
            for subject_id, row in of_patient.items()
        ],
        concept=[
            concept(ELECTIVE, "Elective"),
            concept(NURSING_NOTE, "Nursing"),
            # OMOP's codes have a dot.
            *(
                concept(number, "", "ICD9CM", f"{code[:3]}.{code[3:]}")
                for code, number in of_code.items()
            ),
        ],
        visit_detail=[_detail(row) for row in read_csv(folder / "ICUSTAYS.csv")],
        condition_occurrence=[
            {
                "person_id": int(row["SUBJECT_ID"]),
                "visit_occurrence_id": int(row["HADM_ID"]),
                "condition_source_concept_id": of_code[row["ICD9_CODE"]],
            }
            for row in diagnoses
        ],
    )


def first_deaths(admissions):
    """Return the stay in which each patient died; organ donors are admitted, and die, again."""
    died = {}
    for row in admissions:
        if row["DEATHTIME"]:
            died.setdefault(row["SUBJECT_ID"], row)
    return died


def _time(text):
    return datetime.fromisoformat(text) if text else None


def _person(row, admission):
    born = _time(row["DOB"])
    race, ethnicity = ETHNICITIES[admission["ETHNICITY"]]
    return {
        "person_id": int(row["SUBJECT_ID"]),
        "gender_concept_id": {"M": 8507, "F": 8532}[row["GENDER"]],
        "year_of_birth": born.year,
        "month_of_birth": born.month,
        "day_of_birth": born.day,
        "birth_datetime": born,
        "race_concept_id": race,
        "ethnicity_concept_id": ethnicity,
        "race_source_value": admission["ETHNICITY"],
    }


def _visit(row, death_in_table_only):
    destination = None if death_in_table_only else row["DISCHARGE_LOCATION"]
    return visit(
        int(row["HADM_ID"]),
        _time(row["ADMITTIME"]),
        _time(row["DISCHTIME"]),
        262 if row["ADMISSION_TYPE"] in ("EMERGENCY", "URGENT") else 9201,
        person_id=int(row["SUBJECT_ID"]),
        visit_source_concept_id=ELECTIVE if row["ADMISSION_TYPE"] == "ELECTIVE" else 0,
        to=DESTINATIONS.get(destination, 0),
        discharged_to_source_value=destination,
        preceding_visit_occurrence_id=-int(row["HADM_ID"]) if row["EDREGTIME"] else None,
    )


def _emergency(row):
    """The visit to the emergency room before a stay."""
    begin, end = _time(row["EDREGTIME"]), _time(row["EDOUTTIME"])
    return visit(-int(row["HADM_ID"]), begin, end, 9203, person_id=int(row["SUBJECT_ID"]))


def _detail(row):
    """A stay in intensive care."""
    begin, end = _time(row["INTIME"]), _time(row["OUTTIME"])
    return {
        "visit_detail_id": int(row["ICUSTAY_ID"]),
        "person_id": int(row["SUBJECT_ID"]),
        "visit_detail_concept_id": 32037,
        "visit_detail_start_date": begin.date(),
        "visit_detail_start_datetime": begin,
        "visit_detail_end_date": end.date(),
        "visit_detail_end_datetime": end,
        "visit_detail_source_value": row["FIRST_CAREUNIT"],
        "visit_occurrence_id": int(row["HADM_ID"]),
    }


def _note(row):
    return {
        "note_id": int(row["ROW_ID"]),
        "person_id": int(row["SUBJECT_ID"]),
        "visit_occurrence_id": int(row["HADM_ID"]) if row["HADM_ID"] else None,
        "note_date": _time(row["CHARTDATE"]).date(),
        # Conversions give a note without a time midnight.
        "note_datetime": _time(row["CHARTTIME"] or row["CHARTDATE"]),
        "note_class_concept_id": NURSING_NOTE if row["CATEGORY"] == "Nursing" else 0,
        "note_title": row["DESCRIPTION"],
        "note_text": row["TEXT"],
        "note_source_value": row["CATEGORY"].strip(),
    }
