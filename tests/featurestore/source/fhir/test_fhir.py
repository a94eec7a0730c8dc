"""FHIR bulk exports: the same hospital as from CSV, and what is read from which element."""

import gzip
import json
import zlib
from datetime import date, datetime

import pytest

from featurestore import Store, create_store, embed_pending, sync, write_hospital
from featurestore.errors import SourceError
from featurestore.source import file_folder
from featurestore.source.note_texts import text_hash
from featurestore.source.source import Source
from tests.conftest import WordCounter
from tests.featurestore.source.fhir.export import (
    RACE,
    attachment,
    coded,
    document,
    encounter,
    export_of_mimic,
    patient,
    write_export,
)

# The stay and the patient in both stores, by the ids of the CSV files.
IDS = (
    "regexp_replace(source_hadm_id, '^stay-', '') AS stay, "
    "regexp_replace(source_subject_id, '^patient-', '') AS patient"
)


@pytest.fixture
def synced(tmp_path):
    """A function that writes resources to a folder and syncs a store with it."""

    def write_and_sync(*resources, **settings):
        folder = write_export(tmp_path / "export", resources)
        path = tmp_path / "ward.duckdb"
        store = Store(path) if path.exists() else create_store(path, folder, "fhir", **settings)
        return store, sync(store)

    return write_and_sync


# --- the same hospital


@pytest.fixture(scope="module")
def from_csv(tmp_path_factory):
    folder = tmp_path_factory.mktemp("csv")
    write_hospital(folder / "hospital", 150)
    store = create_store(folder / "w.duckdb", folder / "hospital", "mimic3")
    sync(store)
    return store


@pytest.fixture(scope="module", params=[False, True], ids=["ndjson", "ndjson.gz, three files"])
def from_fhir(request, from_csv, tmp_path_factory):
    folder = tmp_path_factory.mktemp("fhir")
    resources = export_of_mimic(from_csv.path.parent / "hospital")
    write_export(folder / "export", resources, 3 if request.param else 1, request.param)
    store = create_store(folder / "w.duckdb", folder / "export", "fhir")
    sync(store)
    return store


def with_original_ids(store, query):
    """Rows of a query that names the original ids STAY, PATIENT and NOTE."""
    fhir = store.one("SELECT schema_name FROM settings") == ("fhir",)
    ids = "SELECT hadm_id, subject_id, " + (
        IDS if fhir else "hadm_id::VARCHAR AS stay, subject_id::VARCHAR AS patient"
    )
    return store.sql(
        f"WITH ids AS ({ids} FROM admissions), result AS ({query}) "
        "SELECT stay, patient, result.* EXCLUDE (hadm_id) FROM result LEFT JOIN ids USING (hadm_id)"
        " ORDER BY ALL"
    ).fetchall()


@pytest.mark.parametrize("rule", ["readmission", "clinicalbert"])
def test_fhir_gives_the_labels_of_the_csv_files(from_csv, from_fhir, rule):
    query = (
        "SELECT l.hadm_id, l.dischtime, label, regexp_replace(reason, ' [0-9]+$', ''), "
        "days_to_return, known_at, died_within_horizon, next.admittime AS returned_at "
        f"FROM {rule}_labels() AS l LEFT JOIN admissions AS next ON next.hadm_id = l.next_hadm_id"
    )
    rows = with_original_ids(from_fhir, query)
    assert rows == with_original_ids(from_csv, query)
    assert len(rows) > 200
    assert {row[3] for row in rows} == {True, False, None}


@pytest.mark.parametrize("cutoff", ["24h", "discharge"])
def test_fhir_gives_the_predictions_and_their_notes_of_the_csv_files(from_csv, from_fhir, cutoff):
    query = (
        "SELECT hadm_id, prediction_time, regexp_replace(note_id, '^note-', '') AS note, "
        f"text_hash, available_at FROM known_notes(cutoff := '{cutoff}')"
    )
    rows = with_original_ids(from_fhir, query)
    assert rows == with_original_ids(from_csv, query)
    assert len(rows) > 500


def test_fhir_gives_the_notes_of_the_csv_files(from_csv, from_fhir):
    query = (
        "SELECT hadm_id, regexp_replace(note_id, '^note-', '') AS note, category, available_at, "
        "time_basis, text_hash, n_chars, status, reason FROM notes"
    )
    rows = with_original_ids(from_fhir, query)
    assert rows == with_original_ids(from_csv, query)
    assert {row[5] for row in rows} == {"storetime", "charttime", "date"}
    assert {row[-1] for row in rows} == {
        None, "flagged as an error", "no admission", "empty text"
    }  # fmt: skip


def test_fhir_gives_the_training_set_of_the_csv_files(from_csv, from_fhir):
    query = "SELECT hadm_id, label, embedding FROM training_set('counter-00000000')"
    for store in (from_csv, from_fhir):
        if store.one("SELECT count(*) FROM encoders") == (0,):
            embed_pending(store, WordCounter())
    rows = with_original_ids(from_fhir, query)
    assert rows == with_original_ids(from_csv, query)
    assert len(rows) > 100


def test_what_fhir_cannot_say(from_csv, from_fhir):
    query = "SELECT * EXCLUDE (subject_id, source_hadm_id, source_subject_id) FROM admissions"
    csv_rows, fhir_rows = with_original_ids(from_csv, query), with_original_ids(from_fhir, query)
    columns = ["stay", "patient", *from_csv.sql("FROM admissions").columns[2:-2]]
    differences = {
        (column, before, after)
        for csv_row, fhir_row in zip(csv_rows, fhir_rows, strict=True)
        for column, before, after in zip(columns, csv_row, fhir_row, strict=True)
        if before != after
    }
    assert differences == {
        ("discharge_location", "DEAD/EXPIRED", "DIED"),
        ("discharge_location", "LEFT AGAINST MEDICAL ADVI", "AGAINST ADVICE"),
        ("discharge_location", "SHORT TERM HOSPITAL", "ACUTE HOSPITAL"),
        ("insurance", "Medicare", None),
        ("insurance", "Medicaid", None),
        ("insurance", "Private", None),
    }


# --- admissions


@pytest.fixture
def stays(synced):
    """A function that syncs a stay per case, each of its own patient, and returns some columns.

    A case is the changes of an Encounter and of a Patient. The result is by the name of the case.
    """

    def sync_cases(columns, cases, *others):
        resources = []
        for number, (stay_changes, patient_changes) in enumerate(cases.values(), 1):
            resources.append(encounter(number, number, **stay_changes))
            resources.append(patient(number, **patient_changes))
        store, _ = synced(*resources, document(1, "text"), *others)
        rows = store.sql(f"SELECT source_hadm_id, {columns} FROM admissions").fetchall()
        by_id = {stay: row for stay, *row in rows}
        return {
            case: tuple(by_id[f"stay-{number}"]) if f"stay-{number}" in by_id else None
            for number, case in enumerate(cases, 1)
        }

    return sync_cases


def test_all_columns_of_an_admission(synced):
    store, _ = synced(
        encounter(1, priority=coded("EM"), hospitalization={"dischargeDisposition": coded("exp")}),
        patient(
            deceasedDateTime="2150-01-11T11:30:00-05:00",
            extension=[{"url": RACE, "extension": [{"url": "text", "valueString": "White"}]}],
        ),
        document(1, "text"),
    )
    # The first 63 bits of the MD5 of stay-1 and patient-1, by md5sum.
    numbers = 0x93334F099D9DF9B4 >> 1, 0xFB7B333E3B446597 >> 1
    assert store.sql("FROM admissions").fetchall() == [
        (*numbers, datetime(2150, 1, 1, 8), datetime(2150, 1, 11, 12),
         datetime(2150, 1, 11, 11, 30), True, "EMERGENCY", False, "DIED",
         datetime(2150, 1, 11).date(), "F", 69, "WHITE", None, "stay-1", "patient-1")
    ]  # fmt: skip


def test_an_encounter_of_r5_reads_like_one_of_r4(synced):
    r4 = encounter(
        1, priority=coded("EL"), hospitalization={"dischargeDisposition": coded("aadvice")}
    )
    r5 = encounter(
        2,
        status="completed",
        priority=coded("EL"),
        actualPeriod=r4["period"],
        admission={"admitSource": coded("emd"), "dischargeDisposition": coded("aadvice")},
    )
    r5 |= {"class": [coded("IMP")]}
    del r5["period"]
    store, _ = synced(r4, r5, patient(), document(1, "text"))
    four, five = store.sql(
        "SELECT * EXCLUDE (hadm_id, source_hadm_id) FROM admissions ORDER BY source_hadm_id"
    ).fetchall()
    assert four == five
    assert "AGAINST ADVICE" in four and "ELECTIVE" in four


def test_which_encounters_are_hospital_stays(stays):
    are_stays = {
        "acute": {"class": {"code": "ACUTE"}},
        "not acute": {"class": {"code": "NONAC"}},
        "observation": {"class": {"code": "OBSENC"}},
        "R5's list": {"class": [coded("IMP"), coded("LL")]},
        "in progress": {"status": "in-progress"},
        "on leave": {"status": "onleave"},
        "discharged (R5)": {"status": "discharged"},
        "part of one that is not exported": {"partOf": {"reference": "Encounter/stay-999"}},
        "part of an outpatient case": {"partOf": {"reference": "Encounter/stay-50"}},
    }
    are_not = {
        "ambulatory": {"class": {"code": "AMB"}},
        "emergency": {"class": {"code": "EMER"}},
        "short stay": {"class": {"code": "SS"}},
        "no class": {"class": None},
        "planned": {"status": "planned"},
        "cancelled": {"status": "cancelled"},
        "entered in error": {"status": "entered-in-error"},
        "part of a stay": {"partOf": {"reference": "Encounter/stay-1"}},
    }
    cases = {case: (changes, {}) for case, changes in (are_stays | are_not).items()}
    outpatient = encounter(50) | {"class": {"code": "AMB"}}
    rows = stays("dischtime IS NULL", cases, outpatient)
    assert {case for case, row in rows.items() if row} == set(are_stays)
    # The end of a stay in progress is only expected.
    assert {case for case, row in rows.items() if row == (True,)} == {"in progress", "on leave"}


def test_admission_types(stays):
    born = {"hospitalization": {"admitSource": coded("born")}}
    cases = {
        "elective": ({"priority": coded("EL")}, ("ELECTIVE", True)),
        "urgent": ({"priority": coded("UR")}, ("URGENT", False)),
        "its own word": ({"priority": {"text": "Semi-urgent"}}, ("SEMI-URGENT", False)),
        "no priority": ({}, (None, False)),
        "born here": ({"priority": coded("EL"), **born}, ("NEWBORN", True)),
        "observation": ({"class": {"code": "OBSENC"}}, ("DIRECT OBSERVATION", False)),
        "observation, then inpatient": (
            {"class": [coded("OBSENC"), coded("IMP")], "priority": coded("EM")},
            ("EMERGENCY", False),
        ),
    }
    rows = stays(
        "admission_type, planned", {case: (changes, {}) for case, (changes, _) in cases.items()}
    )
    assert rows == {case: expected for case, (_, expected) in cases.items()}


def test_discharge_dispositions(stays):
    nubc = "http://www.nubc.org/patient-discharge"
    cases = {
        "expired": (coded("exp"), ("DIED", True)),
        "NUBC 20": (coded("20", nubc), ("DIED", True)),
        "against advice": (coded("aadvice"), ("AGAINST ADVICE", False)),
        "NUBC 07": (coded("07", nubc), ("AGAINST ADVICE", False)),
        "another hospital": (coded("other-hcf"), ("ACUTE HOSPITAL", False)),
        "NUBC 02": (coded("02", nubc), ("ACUTE HOSPITAL", False)),
        "a 20 of another system": (coded("20", "urn:our-hospital"), ("20", False)),
        "of two codes": ({"coding": [{"code": "5"}, {"code": "exp"}]}, ("DIED", True)),
        "a display": ({"coding": [{"code": "hosp", "display": "Hospice"}]}, ("HOSPICE", False)),
        "a text": ({"text": "Nursing home"}, ("NURSING HOME", False)),
        "none": (None, (None, False)),
    }
    rows = stays(
        "discharge_location, died_in_hospital",
        {
            case: ({"hospitalization": {"dischargeDisposition": disposition}}, {})
            for case, (disposition, _) in cases.items()
        },
    )
    assert rows == {case: expected for case, (_, expected) in cases.items()}


def test_deaths(stays):
    cases = {
        "a time in the stay is a death in hospital": (
            {"deceasedDateTime": "2150-01-11T11:00:00-05:00"},
            (True, "2150-01-11 11:00:00", "2150-01-11"),
        ),
        "a time after discharge is not": (
            {"deceasedDateTime": "2150-01-11T12:30:00-05:00"},
            (False, None, "2150-01-11"),
        ),
        "a date does not tell whether before or after the discharge of that day": (
            {"deceasedDateTime": "2150-01-11"},
            (False, None, "2150-01-11"),
        ),
        "of a year the day is not known": ({"deceasedDateTime": "2151"}, (False, None, None)),
        "of a month neither": ({"deceasedDateTime": "2151-02"}, (False, None, None)),
        "no date at all": ({"deceasedBoolean": True}, (False, None, None)),
    }
    rows = stays(
        "died_in_hospital, CAST(deathtime AS VARCHAR), CAST(dod AS VARCHAR)",
        {case: ({}, changes) for case, (changes, _) in cases.items()},
    )
    assert rows == {case: expected for case, (_, expected) in cases.items()}


def test_times_are_the_wall_clock_as_written(stays):
    cases = {
        "UTC": (
            "2150-01-01T08:00:00Z", "2150-01-02T09:30:15.123Z",
            ("2150-01-01 08:00:00", "2150-01-02 09:30:15"),
        ),
        "two offsets": (
            "2150-01-01T08:00:00+02:00", "2150-01-02T09:30:00+01:00",
            ("2150-01-01 08:00:00", "2150-01-02 09:30:00"),
        ),
        "without seconds": (
            "2150-01-01T08:00+02:00", "2150-01-02T09:30+01:00",
            ("2150-01-01 08:00:00", "2150-01-02 09:30:00"),
        ),
        "a date ends with its day": (
            "2150-01-01", "2150-01-01", ("2150-01-01 00:00:00", "2150-01-01 23:59:59"),
        ),
        "no end": ("2150-01-01T08:00:00Z", None, ("2150-01-01 08:00:00", None)),
    }  # fmt: skip
    rows = stays(
        "CAST(admittime AS VARCHAR), CAST(dischtime AS VARCHAR)",
        {
            case: ({"period": {"start": start} | ({"end": end} if end else {})}, {})
            for case, (start, end, _) in cases.items()
        },
    )
    assert rows == {case: expected for case, (*_, expected) in cases.items()}


def test_patients(stays):
    omb = {"url": "ombCategory", "valueCoding": {"display": "Asian"}}
    cases = {
        "a year of birth": ({"birthDate": "2080"}, ("F", 70, None)),
        "a month of birth": ({"birthDate": "2080-03"}, ("F", 69, None)),
        "no birth date": ({"birthDate": None}, ("F", None, None)),
        "a man": ({"gender": "male"}, ("M", 69, None)),
        "another gender": ({"gender": "other"}, (None, 69, None)),
        "a race without a text": (
            {"extension": [{"url": "urn:other"}, {"url": RACE, "extension": [omb]}]},
            ("F", 69, "ASIAN"),
        ),
    }
    rows = stays(
        "gender, age, ethnicity", {case: ({}, changes) for case, (changes, _) in cases.items()}
    )
    assert rows == {case: expected for case, (_, expected) in cases.items()}


def test_references_to_a_patient(synced):
    references = (
        "Patient/patient-1",
        "https://fhir.example.org/r4/Patient/patient-1",
        "Patient/patient-1/_history/3",
        "urn:uuid:patient-1",
        "Patient/not-exported",
    )
    encounters = [
        encounter(number, subject={"reference": reference})
        for number, reference in enumerate(references)
    ]
    store, _ = synced(*encounters, patient(), document(1, "text"))
    assert store.sql(
        "SELECT source_subject_id, gender FROM admissions ORDER BY source_hadm_id"
    ).fetchall() == [("patient-1", "F")] * 4 + [("not-exported", None)]


# --- notes


@pytest.fixture
def notes(synced):
    """A function that syncs a document per case on one stay, and returns columns by the case."""

    def sync_cases(columns, cases):
        documents = [
            document(number, *contents, **changes)
            for number, (contents, changes) in enumerate(cases.values())
        ]
        store, _ = synced(encounter(1), patient(), *documents)
        rows = store.sql(f"SELECT note_id, {columns} FROM notes").fetchall()
        by_id = {note_id: tuple(row) for note_id, *row in rows}
        return {case: by_id[f"note-{number}"] for number, case in enumerate(cases)}

    return sync_cases


SPECIAL = "37 °C, 5 µg, über, 漢, 🙂"
LATIN_1 = 'text/plain; charset="iso-8859-1"'


def test_the_text_of_attachments(notes, tmp_path):
    pdf, html = attachment("%PDF", "application/pdf"), attachment("<p>html", "text/html")
    link = {"attachment": {"contentType": "text/plain", "url": "Binary/1"}}
    in_lines = attachment("chest pain " * 20)
    data = in_lines["attachment"]["data"]
    in_lines["attachment"]["data"] = "\r\n".join(
        data[start : start + 76] for start in range(0, len(data), 76)
    )
    cases = {
        "UTF-8": ([attachment(SPECIAL)], SPECIAL),
        "UTF-8 that is declared": ([attachment(SPECIAL, "text/plain; charset=UTF-8")], SPECIAL),
        "UTF-16": ([attachment(SPECIAL, "Text/Plain;charset=utf-16", "utf-16")], SPECIAL),
        "Latin-1 is Windows-1252": (
            [attachment("37 °C, 5 €", LATIN_1, "windows-1252")], "37 °C, 5 €",
        ),
        "HTML": ([attachment(SPECIAL, "text/html")], SPECIAL),
        "HTML entities": (
            [attachment("37&deg; &#252;ber &#xB5; &#x1F642;", "text/html")], "37° über µ 🙂",
        ),
        "XHTML": ([attachment("<p>a", "application/xhtml+xml")], "a"),
        "plain text before HTML": ([html, attachment("plain")], "plain"),
        "HTML before PDF": ([pdf, html], "html"),
        "a link before data": ([link, attachment("data")], "data"),
        "base64 in lines": ([in_lines], "chest pain " * 20),
        "a link": ([link], ""),
        "only PDF": ([pdf], ""),
        "only RTF": ([attachment("{\\rtf1 text}", "text/rtf")], ""),
        "an unknown type": ([attachment("text", None)], ""),
        "invalid UTF-8": ([attachment(b"\xff\xfe\xfd")], ""),
        "an unknown character set": ([attachment("text", "text/plain; charset=klingon")], ""),
        "no base64": ([{"attachment": {"contentType": "text/plain", "data": "?"}}], ""),
        "no attachment": ([], ""),
    }  # fmt: skip
    rows = notes("reason", {case: (contents, {}) for case, (contents, _) in cases.items()})
    assert rows == {case: (None if text else "empty text",) for case, (_, text) in cases.items()}
    ids = [f"note-{number}" for number in range(len(cases))]
    texts = dict(pair for pairs in Source(tmp_path / "export", "fhir").texts(ids) for pair in pairs)
    assert [texts[note_id] for note_id in ids] == [text for _, text in cases.values()]


def test_special_characters_are_indexed_and_embedded_once(synced):
    store, _ = synced(
        encounter(1),
        patient(),
        document(1, SPECIAL + " alone"),
        document(2, attachment(SPECIAL + " alone", "text/html")),
    )
    hashes = store.sql("SELECT text_hash FROM notes").fetchall()
    assert hashes == [(text_hash(SPECIAL + " alone"),)] * 2
    encoder = WordCounter()
    embed_pending(store, encoder)
    assert encoder.texts_seen == [SPECIAL + " alone"] * 2
    embed_pending(store, encoder)
    assert len(encoder.texts_seen) == 2


def test_which_documents_are_excluded(notes):
    elsewhere = {"context": {"encounter": [{"reference": "Encounter/stay-9"}]}}
    r5 = {"context": [{"reference": "Appointment/1"}, {"reference": "Encounter/stay-1"}]}
    cases = {
        "final": ({}, None),
        "amended": ({"docStatus": "amended"}, None),
        "no status of the document": ({"docStatus": None}, None),
        "a draft": ({"docStatus": "preliminary"}, "flagged as an error"),
        "a wrong document": ({"docStatus": "entered-in-error"}, "flagged as an error"),
        "a wrong resource": ({"status": "entered-in-error"}, "flagged as an error"),
        "superseded": ({"status": "superseded"}, "flagged as an error"),
        "no encounter": ({"context": {}}, "no admission"),
        "an unknown encounter": (elsewhere, "unknown admission"),
        "R5's list of references": (r5, None),
        "another patient": (
            {"subject": {"reference": "Patient/patient-2"}}, "admission of another patient",
        ),
        "no patient of its own": ({"subject": None}, None),
        "no date": ({"date": None}, "no date"),
        "only a month": ({"date": "2150-01"}, "unreadable date"),
    }  # fmt: skip
    rows = notes("reason", {case: (["text"], changes) for case, (changes, _) in cases.items()})
    assert rows == {case: (reason,) for case, (_, reason) in cases.items()}


def test_a_draft_that_is_signed_becomes_ready(synced):
    stay = [encounter(1), patient()]
    synced(*stay, document(1, "text", docStatus="preliminary"))
    store, counts = synced(*stay, document(1, "text", docStatus="final"))
    assert counts["notes"]["changed"] == 1
    assert store.one("SELECT status FROM notes") == ("ready",)


def test_a_sync_since_a_day_reads_the_newer_documents(synced, tmp_path):
    old = [encounter(1), patient(), document(1, "old", date="2150-01-02T09:00:00-05:00")]
    store, _ = synced(*old)
    write_export(tmp_path / "export", [*old, document(2, "new", date="2150-01-05T09:00:00-05:00")])
    counts = sync(store, since=date(2150, 1, 4))
    assert counts["notes"]["new"] == 1
    assert store.sql("SELECT note_id FROM notes ORDER BY 1").fetchall() == [
        ("note-1",),
        ("note-2",),
    ]


def test_when_a_document_is_known(notes):
    seven, nine = "2150-01-02T07:00:00-05:00", "2150-01-02T09:00:00-05:00"
    cases = {
        "when it was stored": (seven, nine, ("02 09:00:00", "storetime")),
        "an attachment that is newer": (nine, seven, ("02 09:00:00", "storetime")),
        "else when it was created": (seven, None, ("02 07:00:00", "charttime")),
        "a date counts from the next day": ("2150-01-02", None, ("03 00:00:00", "date")),
        "with parts of a second": (None, "2150-01-02T09:00:00.5Z", ("02 09:00:00", "storetime")),
        "stored on a date": (None, "2150-01-02", ("03 00:00:00", "date")),
    }
    rows = notes(
        "strftime(available_at, '%d %H:%M:%S'), time_basis",
        {
            case: ([attachment("text", creation=creation)], {"date": date})
            for case, (creation, date, _) in cases.items()
        },
    )
    assert rows == {case: expected for case, (*_, expected) in cases.items()}


def test_the_category_of_a_document(notes):
    summary = {"code": "18842-5", "display": "Discharge summary"}
    cases = {
        "Nursing": {"type": {"text": "Nursing", "coding": [{"display": "Nurse note"}]}},
        "Discharge summary": {"type": {"coding": [summary]}},
        "Clinical Note": {"type": None, "category": [{"coding": [{"display": "Clinical Note"}]}]},
        None: {"type": None},
    }
    rows = notes("category", {case: (["text"], changes) for case, changes in cases.items()})
    assert rows == {category: (category,) for category in cases}


def test_a_note_on_an_encounter_of_a_ward_belongs_to_the_stay(synced):
    ward, bed = (
        encounter(number, partOf={"reference": f"Encounter/stay-{number - 1}"}) for number in (2, 3)
    )
    store, _ = synced(encounter(1), ward, bed, patient(), document(1, "text", stay=3))
    assert store.one(
        "SELECT source_hadm_id, reason FROM admissions JOIN notes USING (hadm_id)"
    ) == ("stay-1", None)


# --- files


def test_several_files_and_subfolders_are_one_table(tmp_path):
    folder = write_export(tmp_path / "export", [encounter(1), patient(), document(1, "one")])
    (folder / "more").mkdir()
    lines = [json.dumps(document(number, f"text {number}")) for number in (2, 3)]
    (folder / "more" / "2.DocumentReference.ndjson").write_text("\n\n".join(lines))
    (folder / "DocumentReference-3.ndjson.gz").write_bytes(
        gzip.compress(json.dumps(document(4, "four")).encode())
    )
    (folder / "log.ndjson").write_text('{"event": "kickoff"}\n')
    (folder / "empty.ndjson").write_text("")
    assert sorted(Source(folder, "fhir").read("notes")["note_id"].to_pylist()) == [
        "note-1", "note-2", "note-3", "note-4"
    ]  # fmt: skip


def test_a_table_in_ndjson_and_csv_is_refused(tmp_path):
    folder = write_export(tmp_path / "export", [encounter(1)])
    (folder / "encounter.csv").write_text("json\n1\n")
    with pytest.raises(SourceError, match=r"table encounter twice, also in Encounter.000.ndjson"):
        Source(folder, "fhir")


def test_a_missing_resource_is_named(tmp_path):
    folder = write_export(tmp_path / "export", [encounter(1), patient()])
    with pytest.raises(SourceError, match=r"documentreference does not exist.*or FHIR's ndjson"):
        Source(folder, "fhir").check()


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize(
    ("line", "fault"),
    [
        (b'{"id": "PHI_CANARY\n', "is not valid JSON"),
        (b'PHI_CANARY {"id": "1"}\n', "is not valid JSON"),
        (b'{"id": "PHI_CANARY \xff"}\n', "is not UTF-8"),
        (b'{"id": "PHI_CANARY \\ud83d"}\n', "is not valid JSON"),
        (b'{"id": "PHI_CANARY' + b"w" * 40_000_000 + b'"}\n', "is longer than 16 MB"),
    ],
    ids=["truncated", "no JSON", "invalid UTF-8", "half a character", "too long a line"],
)
def test_a_broken_line_is_named_but_not_quoted(
    tmp_path, capfd, monkeypatch, compressed, line, fault
):
    monkeypatch.setattr(file_folder, "_MAX_RESOURCE_BYTES", 16 * 1024**2)  # 64 is slow to test
    documents = [document(1, "PHI_CANARY"), document(2, "PHI_CANARY")]
    folder = write_export(tmp_path / "export", [encounter(1), patient(), *documents])
    file = folder / "DocumentReference.000.ndjson"
    data = file.read_bytes() + line + file.read_bytes()
    if compressed:
        file.unlink()
        file = file.with_name(f"{file.name}.gz")
        data = gzip.compress(data, 1)
    file.write_bytes(data)
    source = Source(folder, "fhir")
    for read in (lambda: source.read("notes"), lambda: list(source.texts(["note-1", "note-9"]))):
        with pytest.raises(SourceError) as refused:
            read()
        message = str(refused.value)
        assert message == (
            f"{folder}: {file.name}, line 3 {fault} - export that file again; nothing was changed"
        )
        assert refused.value.__cause__ is None and refused.value.__suppress_context__
    assert "PHI_CANARY" not in "".join(capfd.readouterr())


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (b'{"resourceType": "DocumentReference", "id": "PHI_CANARY', "line 1 is not valid JSON"),
        (b"\xff\xfe", "line 1 is not UTF-8"),
    ],
)
def test_a_broken_first_line_is_named_when_the_folder_is_opened(tmp_path, data, fault):
    folder = write_export(tmp_path / "export", [encounter(1), patient()])
    (folder / "DocumentReference.ndjson").write_bytes(data)
    with pytest.raises(SourceError, match=f"DocumentReference.ndjson, {fault} - export") as refused:
        Source(folder, "fhir")
    assert "PHI_CANARY" not in str(refused.value)


def test_a_compressed_file_that_is_cut_short_is_named(tmp_path):
    documents = [document(number, "text" * 5_000) for number in range(50)]
    folder = write_export(
        tmp_path / "export", [encounter(1), patient(), *documents], compressed=True
    )
    file = folder / "DocumentReference.000.ndjson.gz"
    file.write_bytes(file.read_bytes()[:-50])
    with pytest.raises(SourceError, match=r"DocumentReference.000.ndjson.gz is damaged or cut"):
        Source(folder, "fhir").read("notes")


def test_a_compressed_file_that_is_cut_between_two_lines_is_named(tmp_path):
    folder = write_export(tmp_path / "export", [encounter(1), patient()], compressed=True)
    (file,) = folder.glob("Encounter*.ndjson.gz")
    packer = zlib.compressobj(wbits=31)
    lines = packer.compress(gzip.decompress(file.read_bytes()))
    file.write_bytes(lines + packer.flush(zlib.Z_FULL_FLUSH))
    with pytest.raises(SourceError, match=f"{file.name} is damaged or cut short"):
        Source(folder, "fhir").read("admissions")


def test_an_attachment_of_twenty_megabytes_is_read(tmp_path):
    text = "long " * 4_000_000
    folder = write_export(tmp_path / "export", [encounter(1), patient(), document(1, text)])
    source = Source(folder, "fhir")
    assert source.read("notes")["n_chars"].to_pylist() == [20_000_000]
    assert list(source.texts(["note-1"])) == [[("note-1", text)]]


def test_the_documents_are_never_held_in_a_hash_table(tmp_path):
    # DuckDB builds the hash table of a RIGHT join of the first relation: of all texts at once.
    documents = [document(number, "text") for number in range(50)]
    stays = [encounter(number) for number in range(500)]
    folder = write_export(tmp_path / "export", [*stays, patient(), *documents])
    source = Source(folder, "fhir")
    with source._connect() as connection:
        driver = connection.connection.driver_connection
        select = f"SELECT note_id, md5(text) FROM ({source.schema.selects['notes']})"
        plan = driver.execute(f"EXPLAIN CREATE TEMP TABLE index AS {select}").fetchall()[0][1]
    assert "Join Type: LEFT" in plan
    assert "Join Type: RIGHT" not in plan
