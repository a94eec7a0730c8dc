"""OMOP: what a visit becomes, one patient's timeline at a time, and a hospital in two formats."""

import csv
import shutil
from datetime import date, datetime

import pytest
from click.testing import CliRunner

from featurestore import (
    create_store,
    embed_pending,
    score,
    sync,
    train,
    write_hospital,
)
from featurestore.cli import main
from featurestore.errors import SourceError
from featurestore.source.source import Source
from tests.conftest import WordCounter
from tests.featurestore.source.omop.cdm import (
    ELECTIVE,
    concept,
    first_deaths,
    from_mimic3,
    hospital,
    note,
    person,
    read_csv,
    visit,
    write_folder,
    write_mariadb,
    write_postgres,
    write_sqlite,
)
from tests.featurestore.source.test_databases import RELATIONS, all_rows
from tests.featurestore.source.test_mariadb import connect
from tests.featurestore.source.test_mariadb import server as mariadb  # noqa: F401
from tests.timeline import day


def store_of(folder, tables, schema="omop", **options):
    """A store that has synced OMOP's tables from Parquet files."""
    store = create_store(
        folder / "w.duckdb", write_folder(folder / "cdm", tables), schema, **options
    )
    sync(store)
    return store


STAYS = """
    SELECT hadm_id, admission_type, planned, died_in_hospital, discharge_location, label, reason
    FROM admissions
    INNER JOIN readmission_labels() USING (hadm_id)
    ORDER BY hadm_id
"""
EMERGENCY_ROOM, INPATIENT, BOTH, OBSERVATION = 9203, 9201, 262, 581385
DEATH = {"death": [{"person_id": 1, "death_date": day(5).date(), "death_datetime": day(5)}]}
DEATH_DATE = {"death": [{"person_id": 1, "death_date": day(5).date()}]}


@pytest.mark.parametrize(
    ("visits", "tables", "stays"),
    [
        pytest.param(
            [
                visit(1, day(0), day(3)),
                visit(2, day(5), day(5, 18), EMERGENCY_ROOM),
                visit(3, day(6), day(6, 18), 8870),
                visit(4, day(7), day(7, 13), 9202),
            ],
            {},
            [(1, "INPATIENT", False, False, None, False, None)],
            id="an emergency or outpatient visit that ended at home is no stay and no return",
        ),
        pytest.param(
            [visit(1, day(0), day(3)), visit(2, day(9), day(12), BOTH)],
            {},
            [
                (1, "INPATIENT", False, False, None, True, None),
                (2, "EMERGENCY", False, False, None, False, None),
            ],
            id="an emergency visit that became a stay is an unplanned return",
        ),
        pytest.param(
            [visit(1, day(0), day(3)), visit(2, day(9), day(10), OBSERVATION)],
            {},
            [
                (1, "INPATIENT", False, False, None, False, None),
                (2, "DIRECT OBSERVATION", False, False, None, None, "observation stay"),
            ],
            id="an observation visit is neither a return nor an index stay",
        ),
        pytest.param(
            [
                visit(1, day(0), day(3)),
                visit(2, day(3), day(6), 32037),
                visit(3, day(6), day(8)),
            ],
            {},
            [
                (1, "INPATIENT", False, False, None, None, "continued by 2"),
                (2, "INPATIENT", False, False, None, None, "continued by 3"),
                (3, "INPATIENT", False, False, None, False, None),
            ],
            id="intensive care as a visit of its own does not make a return of the ward after it",
        ),
        pytest.param(
            [visit(1, day(0), day(3), discharged_to_source_value="Home")],
            {},
            [(1, "INPATIENT", False, False, "HOME", False, None)],
            id="a place of discharge without a concept keeps its source value",
        ),
        pytest.param(
            [visit(1, day(0), day(5))],
            DEATH,
            [(1, "INPATIENT", False, True, "DIED", None, "died in hospital")],
            id="a death in hospital that only the table death knows",
        ),
        pytest.param(
            [visit(1, day(0), day(5), to=None, discharged_to_source_value="Home")],
            DEATH_DATE,
            [(1, "INPATIENT", False, True, "DIED", None, "died in hospital")],
            id="a death on the day of discharge is a death in hospital",
        ),
        *(
            pytest.param(
                [visit(1, day(0), day(5), to=concept_id)],
                {},
                [(1, "INPATIENT", False, True, "DIED", None, "died in hospital")],
                id=f"{concept_id} is a death in hospital, of which the table death may not know",
            )
            for concept_id in (4216643, 434489, 4306655, 32218)
        ),
        pytest.param(
            [visit(1, day(0), day(3))],
            DEATH,
            [(1, "INPATIENT", False, False, None, False, None)],
            id="a death at home is not one in hospital",
        ),
        *(
            pytest.param(
                [visit(1, day(0), day(5), to=concept_id)],
                DEATH,
                [
                    (
                        *(1, "INPATIENT", False, False, "ACUTE HOSPITAL", None),
                        "transferred to acute hospital",
                    )
                ],
                id=f"who is transferred ({concept_id}) on the day of death dies elsewhere",
            )
            for concept_id in (8717, 38004279, 38004515, 9201, 262)
        ),
        pytest.param(
            [visit(1, day(0), day(6), to=8717)],
            DEATH,
            [(1, "INPATIENT", False, True, "DIED", None, "died in hospital")],
            id="who died during the stay was not transferred after it",
        ),
        *(
            pytest.param(
                [visit(1, day(0), day(5), to=concept_id)],
                {},
                [
                    (
                        *(1, "INPATIENT", False, False, "AGAINST ADVICE", None),
                        "left against medical advice",
                    )
                ],
                id=f"{concept_id} is a discharge against advice",
            )
            for concept_id in (4021968, 40482021, 44814693)
        ),
        pytest.param(
            [
                visit(1, day(0), day(3), to=32220),
                visit(2, day(0), day(3), visit_type_concept_id=32220, person_id=2),
                visit(
                    *(3, day(0), day(3)),
                    person_id=3,
                    visit_end_date=None,
                    visit_end_datetime=None,
                ),
            ],
            {},
            [
                (number, "INPATIENT", False, False, None, None, "no discharge time")
                for number in (1, 2, 3)
            ],
            id="who is still a patient has no discharge",
        ),
        pytest.param(
            [visit(1, day(0), day(3)), visit(2, day(9), day(10))],
            {"persons": [person(birth_datetime=day(0, 0), year_of_birth=2150)]},
            [
                (1, "NEWBORN", False, False, None, None, "newborn"),
                (2, "INPATIENT", False, False, None, False, None),
            ],
            id="who is born on the day of admission is a newborn, and none when coming back",
        ),
        pytest.param(
            [visit(1, day(0), day(3), visit_source_concept_id=4)],
            {"concept": [concept(4, "Newborn", "UB04 Pri Typ of Adm")]},
            [(1, "NEWBORN", False, False, None, None, "newborn")],
            id="a newborn whose source concept says so",
        ),
        *(
            pytest.param(
                [
                    visit(1, day(0), day(3)),
                    visit(2, day(9), day(10), visit_source_concept_id=ELECTIVE),
                ],
                {"concept": [concept(ELECTIVE, name)]},
                [
                    (1, "INPATIENT", False, False, None, False, "planned return"),
                    (2, "ELECTIVE", True, False, None, False, None),
                ],
                id=f"a source concept named {name} is a planned stay",
            )
            for name in ("Elective", "Planned admission", "Hospital admission, elective")
        ),
        pytest.param(
            [
                visit(1, day(0), day(3)),
                visit(2, day(9), day(10), visit_source_concept_id=ELECTIVE),
            ],
            {"concept": [concept(ELECTIVE, "Non-elective admission")]},
            [
                (1, "INPATIENT", False, False, None, True, None),
                (2, "INPATIENT", False, False, None, False, None),
            ],
            id="non-elective is not planned",
        ),
        pytest.param(
            [
                visit(1, day(0), day(0, 0)),
                visit(2, day(0), day(0), visit_end_datetime=None, person_id=2),
                visit(3, day(0), day(1, 0), person_id=3),
            ],
            {},
            [(number, "INPATIENT", False, False, None, False, None) for number in (1, 2, 3)],
            id="an end without a time is not before the admission",
        ),
        pytest.param(
            [visit(1, day(3), day(0))],
            {},
            [(1, "INPATIENT", False, False, None, None, "discharge before admission")],
            id="a discharge on an earlier day is before the admission",
        ),
        pytest.param(
            [visit(1, day(0), day(3))],
            {"persons": [person(7)]},
            [(1, "INPATIENT", False, False, None, False, None)],
            id="a stay without a row of person is kept",
        ),
    ],
)
def test_a_visit_becomes_a_stay(tmp_path, visits, tables, stays):
    store = store_of(tmp_path, hospital(visits, **tables))
    assert store.sql(STAYS).fetchall() == stays


def test_times_of_a_death_come_from_the_table_death_or_from_the_end_of_the_visit(tmp_path):
    visits = [
        visit(1, day(0), day(5, 20), to=4216643),
        visit(2, day(0), day(5, 20), to=4216643, person_id=2),
        visit(3, day(0), day(5, 20), to=4216643, person_id=3, visit_end_datetime=None),
    ]
    death = [*DEATH["death"], {"person_id": 2, "death_date": day(5).date()}]
    # OHDSI's conventions count the latest of several dates of death.
    death.append({"person_id": 1, "death_date": day(9).date()})
    store = store_of(tmp_path, hospital(visits, death=death))
    assert store.sql("SELECT hadm_id, deathtime, dod FROM admissions ORDER BY 1").fetchall() == [
        (1, day(5), day(9).date()),
        (2, day(5, 20), day(5).date()),
        (3, day(5, 0), None),
    ]


def test_a_visit_without_times_begins_and_ends_by_date(tmp_path):
    dates = visit(1, day(0), day(5), visit_start_datetime=None, visit_end_datetime=None)
    store = store_of(tmp_path, hospital([dates]))
    assert store.one("SELECT admittime, dischtime FROM admissions") == (day(0, 0), day(5, 0))


# How OHDSI's conversion maps the admission types of MIMIC-IV to visits: the file
# custom_mapping_csv/gcpt_vis_admission.csv of github.com/OHDSI/MIMIC.
OHDSI_MIMIC = {
    "DIRECT EMER.": 8870,
    "DIRECT OBSERVATION": 581385,
    "ELECTIVE": 9201,
    "EU OBSERVATION": 581385,
    "EW EMER.": 8870,
    "OBSERVATION ADMIT": 581385,
    "SURGICAL SAME DAY ADMISSION": 8883,
    "URGENT": 262,
    "AMBULATORY OBSERVATION": 38004207,
}


def test_ohdsis_mimic_keeps_its_stays_and_their_admission_types(tmp_path):
    types = dict(enumerate(OHDSI_MIMIC, 2_000_001_801))
    visits = [
        visit(
            *(number, day(0), day(3), OHDSI_MIMIC[name]),
            person_id=number,
            visit_source_concept_id=source_id,
        )
        for number, (source_id, name) in enumerate(types.items(), 1)
    ]
    concepts = [concept(*item, "mimiciv_vis_admission_type") for item in types.items()]
    store = store_of(tmp_path, hospital(visits, concept=concepts))
    rows = store.sql(
        "SELECT admission_type, planned, reason FROM admissions "
        "INNER JOIN readmission_labels() USING (hadm_id) ORDER BY hadm_id"
    ).fetchall()
    # The last type stands for laboratory results without a stay.
    assert rows == [
        ("DIRECT EMER.", False, None),
        ("DIRECT OBSERVATION", False, "observation stay"),
        ("ELECTIVE", True, None),
        ("EU OBSERVATION", False, "observation stay"),
        ("EW EMER.", False, None),
        ("OBSERVATION ADMIT", False, None),
        ("SURGICAL SAME DAY ADMISSION", True, None),
        ("URGENT", False, None),
    ]


def test_demographics_are_those_of_the_person_and_of_the_day_of_admission(tmp_path):
    persons = [
        person(1, year_of_birth=2090),
        person(2, month_of_birth=2),
        person(3, month_of_birth=1, day_of_birth=2, gender_concept_id=8507),
        person(4, month_of_birth=1, day_of_birth=1, gender_concept_id=0, gender_source_value="X"),
        person(5, year_of_birth=2040, race_concept_id=8527),
        person(6, race_concept_id=8516, ethnicity_concept_id=38003563),
        person(7, race_concept_id=8515),
        person(8, race_concept_id=8657),
        person(9, race_concept_id=8557),
        person(10, month_of_birth=1, race_concept_id=0, race_source_value="other"),
    ]
    visits = [visit(number, day(0), day(3), person_id=number) for number in range(1, 11)]
    periods = [
        (1, date(2140, 1, 1), date(2149, 12, 31), "Medicaid"),
        (1, date(2150, 1, 1), date(2150, 12, 31), "Private"),
        (2, date(2140, 1, 1), date(2151, 1, 1), "Private"),
        (2, date(2140, 1, 1), date(2151, 1, 1), "Medicare"),
        (3, date(2140, 1, 1), date(2149, 12, 31), "Medicaid"),
    ]
    columns = ("person_id", "payer_plan_period_start_date", "payer_plan_period_end_date")
    payers = [dict(zip((*columns, "payer_source_value"), row, strict=True)) for row in periods]
    store = store_of(tmp_path, hospital(visits, persons=persons, payer_plan_period=payers))
    rows = store.sql(
        "SELECT hadm_id, age, gender, ethnicity, insurance FROM admissions ORDER BY 1"
    ).fetchall()
    assert rows == [
        (1, 60, "F", None, "Private"),
        (2, 59, "F", None, "Medicare"),
        (3, 59, "M", None, None),
        (4, 60, "X", None, None),
        (5, 91, "F", "WHITE", None),
        (6, 60, "F", "HISPANIC OR LATINO", None),
        (7, 60, "F", "ASIAN", None),
        (8, 60, "F", "AMERICAN INDIAN OR ALASKA NATIVE", None),
        (9, 60, "F", "NATIVE HAWAIIAN OR OTHER PACIFIC ISLANDER", None),
        (10, 60, "F", "other", None),
    ]


def test_notes_have_the_class_and_the_times_that_omop_records(tmp_path):
    nursing = concept(45, "Nursing note", "LOINC")
    notes = [
        note(1, 1, note_class_concept_id=45, note_source_value="RN"),
        note(2, 1, day(1, 0), note_source_value="RN"),
        note(3, 1, note_datetime=None, note_title="Round"),
        note(4, 2),
        note(5, None),
        note(6, 1, person_id=2),
        note(7, 1, text=" "),
    ]
    visits = [visit(1, day(0), day(3)), visit(2, day(0), day(0, 18), EMERGENCY_ROOM)]
    store = store_of(tmp_path, hospital(visits, notes, concept=[nursing]))
    rows = store.sql(
        "SELECT note_id, category, available_at, time_basis, reason FROM notes ORDER BY note_id"
    ).fetchall()
    assert rows == [
        ("1", "Nursing note", day(1), "charttime", None),
        # Midnight stands for a time that is not known: the note counts from the next day.
        ("2", "RN", day(2, 0), "date", None),
        ("3", "Round", day(2, 0), "date", None),
        ("4", None, day(1), "charttime", "unknown admission"),
        ("5", None, day(1), "charttime", "no admission"),
        ("6", None, day(1), "charttime", "admission of another patient"),
        ("7", None, day(1), "charttime", "empty text"),
    ]


def test_a_live_store_is_observed_up_to_the_extract(tmp_path):
    """A return after the extract is not known, whenever the store reads the CDM."""
    start, end = datetime(2020, 1, 1, 8), datetime(2020, 1, 4, 12)
    visits = [
        visit(1, start, end),
        visit(2, start, end, person_id=2, to=32220),
        visit(3, datetime(2019, 12, 1), datetime(2019, 12, 4), person_id=3),
    ]
    extracts = [{"source_release_date": date(2020, 1, number)} for number in (28, 21)]
    store = store_of(tmp_path, hospital(visits, cdm_source=extracts), live=True)
    assert store.one("SELECT observed_until FROM settings") == (datetime(2020, 1, 21),)
    assert store.sql(STAYS).fetchall() == [
        (1, "INPATIENT", False, False, None, None, "horizon not yet observed"),
        (2, "INPATIENT", False, False, None, None, "no discharge time"),
        (3, "INPATIENT", False, False, None, False, None),
    ]


@pytest.mark.parametrize("table", ["payer_plan_period", "death", "cdm_source"])
def test_a_table_that_a_site_lacks_is_named(tmp_path, table):
    folder = write_folder(tmp_path / "cdm", hospital([visit(1, day(0), day(3))]))
    (folder / f"{table}.parquet").unlink()
    with pytest.raises(SourceError, match=f"Table with name {table} does not exist"):
        create_store(tmp_path / "w.duckdb", folder, "omop")


# --- version 5.3

V53 = """
    ALTER TABLE visit_occurrence RENAME discharged_to_concept_id TO discharge_to_concept_id;
    ALTER TABLE visit_occurrence RENAME discharged_to_source_value TO discharge_to_source_value
"""


def test_version_5_3_has_another_name_for_the_place_of_discharge(tmp_path):
    visits = [
        visit(1, day(0), day(5), to=4021968),
        visit(2, day(0), day(5), person_id=2, discharged_to_source_value="Home"),
    ]
    folder = write_folder(tmp_path / "cdm", hospital(visits), before=V53)
    store = create_store(tmp_path / "w.duckdb", folder, "omop53")
    sync(store)
    assert store.one("SELECT schema_name FROM settings") == ("omop53",)
    assert store.sql(STAYS).fetchall() == [
        (1, "INPATIENT", False, False, "AGAINST ADVICE", None, "left against medical advice"),
        (2, "INPATIENT", False, False, "HOME", False, None),
    ]
    with pytest.raises(SourceError, match="look like those of schema omop53: use --schema omop53"):
        Source(folder, "omop").check()


# --- the same hospital


def edit_csv(file, edit):
    rows = [edit(row) for row in read_csv(file)]
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, rows[0])
        writer.writeheader()
        writer.writerows(rows)


NAMES_IN_OMOP = {
    "DEAD/EXPIRED": "DIED",
    "LEFT AGAINST MEDICAL ADVI": "AGAINST ADVICE",
    "SHORT TERM HOSPITAL": "ACUTE HOSPITAL",
    "BLACK/AFRICAN AMERICAN": "BLACK OR AFRICAN AMERICAN",
    "URGENT": "EMERGENCY",
}


def one_day_with_wrong_time(row):
    admitted, discharged = row["ADMITTIME"], row["DISCHTIME"]
    return discharged < admitted and discharged[:10] == admitted[:10]


def forget_what_omop_cannot_say(folder, copy):
    """Copy MIMIC-III's tables without what docs/schemas/omop.md lists as lost."""
    shutil.copytree(folder, copy)
    died = first_deaths(read_csv(folder / "ADMISSIONS.csv"))

    def admission(row):
        row = {name: NAMES_IN_OMOP.get(value, value) for name, value in row.items()}
        if one_day_with_wrong_time(row):
            row["DISCHTIME"] = row["ADMITTIME"]
        # Each patient has one death, also organ donors who are admitted again on that day.
        if row["DEATHTIME"]:
            first = died[row["SUBJECT_ID"]]["DEATHTIME"]
            if first[:10] >= row["ADMITTIME"][:10]:
                row["DEATHTIME"] = first
        return row

    edit_csv(copy / "ADMISSIONS.csv", admission)
    edit_csv(copy / "NOTEEVENTS.csv", lambda row: row | {"STORETIME": "", "ISERROR": ""})
    return copy


@pytest.fixture(scope="module")
def mimic(tmp_path_factory):
    folder = tmp_path_factory.mktemp("omop") / "mimic"
    write_hospital(folder, patients=150, notes_per_stay=3)
    characters = " 38 ° für µ 漢 🙂"
    edit_csv(folder / "NOTEEVENTS.csv", lambda row: row | {"TEXT": row["TEXT"] + characters})
    return folder


@pytest.fixture(scope="module")
def tables(mimic):
    return from_mimic3(mimic)


@pytest.fixture(scope="module")
def expected(mimic):
    """The rows of MIMIC-III's CSV files without what OMOP cannot say."""
    less = forget_what_omop_cannot_say(mimic, mimic.parent / "less")
    store = create_store(mimic.parent / "less.duckdb", less, "mimic3")
    sync(store)
    return all_rows(store, RELATIONS)


@pytest.fixture(scope="module")
def complete(mimic):
    """The labels and notes of MIMIC-III's CSV files as they are."""
    store = create_store(mimic.parent / "complete.duckdb", mimic, "mimic3")
    sync(store)
    return store


@pytest.fixture(
    params=[
        *("parquet", "sqlite", "postgres"),
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("csv", "mariadb")),
    ]
)
def location(request, tmp_path, tables):
    if request.param == "sqlite":
        return f"sqlite:///{write_sqlite(tmp_path / 'cdm.sqlite', tables)}"
    if request.param == "postgres":
        server = request.getfixturevalue("server")
        write_postgres(server.get_uri(), tables)
        return f"{server.get_uri()}&options=-csearch_path%3Dcdm"
    if request.param == "mariadb":
        url = request.getfixturevalue("mariadb")
        with connect(url) as con:
            write_mariadb(con, tables)
        return url.replace("/mimic?", "/cdm?")
    return write_folder(tmp_path / "cdm", tables, request.param)


def test_a_hospital_gives_the_same_rows_in_omop_as_in_mimic(location, expected, complete, tmp_path):
    store = create_store(tmp_path / "w.duckdb", location, "omop")
    sync(store)
    rows = all_rows(store, RELATIONS)
    assert len(rows["training_set('counter-00000000')"]) > 80
    for relation in rows:
        assert rows[relation] == expected[relation], relation
    again = sync(store)
    assert all(again[table]["changed"] == again[table]["new"] == 0 for table in again)
    hashes = "SELECT note_id, hadm_id, text_hash, n_chars FROM notes ORDER BY 1"
    assert store.sql(hashes).fetchall() == complete.sql(hashes).fetchall()


def test_labels_are_lost_only_for_wrong_times_on_one_day(mimic, expected, complete):
    labels = complete.sql("FROM readmission_labels() ORDER BY ALL").fetchall()
    different = {row[0] for row in set(labels) ^ set(expected["readmission_labels()"])}
    wrong = {
        int(row["HADM_ID"])
        for row in read_csv(mimic / "ADMISSIONS.csv")
        if one_day_with_wrong_time(row)
    }
    assert different == wrong
    assert len(wrong) < 5


# --- ids as OHDSI's MIMIC has them


def negative(number):
    """One of the negative 64-bit numbers that a hash gives, the same for the same number."""
    return number - 2**62 if number is not None else None


def test_negative_ids_of_64_bits_go_from_the_source_to_an_explanation(tables, tmp_path):
    ids = ("person_id", "visit_occurrence_id", "note_id")
    shifted = {
        name: [
            row | {column: negative(row[column]) for column in ids if column in row} for row in rows
        ]
        for name, rows in tables.items()
    }
    store = store_of(tmp_path, shifted)
    embed_pending(store, WordCounter())
    labels = store.sql("FROM readmission_labels()")
    assert labels.aggregate("max(hadm_id) < -4611686018427000000").fetchone() == (True,)
    train(store, "readmit", baseline=False)
    score(store, "readmit")
    hadm_id, probability = store.one("SELECT hadm_id, probability FROM scores ORDER BY 1 LIMIT 1")
    continued = store.one(
        "SELECT l.reason, e.continued_by FROM readmission_labels() AS l "
        "INNER JOIN episodes AS e USING (hadm_id) WHERE e.continued_by IS NOT NULL"
    )
    assert continued[0] == f"continued by {continued[1]}"
    result = CliRunner().invoke(main, ["explain", str(store.path), str(hadm_id)])
    assert result.exit_code == 0, result.output
    assert f"admission {hadm_id}: {probability:.1%} by readmit-v1" in result.output
