"""A folder of files as a source: what is read, and the errors where it cannot be."""

import gzip
import shutil
import zlib

import duckdb
import pyarrow.csv
import pyarrow.parquet
import pytest

from featurestore import create_store, forget, read_texts, sync
from featurestore.errors import SourceError, UnknownNameError
from featurestore.source.note_texts import text_hash
from featurestore.source.source import Source
from featurestore.store.sql_files import SQL
from featurestore.synthetic.mimic4 import write_mimic4_hospital
from tests.hospital import admission, note, own_schema, write_hospital


@pytest.fixture
def folder(tmp_path):
    return write_hospital(
        tmp_path / "hospital", [admission(7)], [note(1, 7, 'says "ouch",\ntwice'), note(2, 7, "b")]
    )


def contents(folder):
    source = Source(folder, "mimic3")
    source.check()
    texts = dict(pair for pairs in source.texts(["1", "2"]) for pair in pairs)
    index = source.read("notes").select(["note_id", "hadm_id", "text_hash", "n_chars"])
    admissions = source.read("admissions").to_pylist()
    return texts, sorted(index.to_pylist(), key=lambda row: row["note_id"]), admissions


def test_texts_are_read_unchanged(folder):
    texts, index, _ = contents(folder)
    assert texts == {"1": 'says "ouch",\ntwice', "2": "b"}
    # md5sum of the text
    assert index[1]["text_hash"] == "92eb5ffee6ae2fec3ad71c777531578f"


def test_only_the_requested_texts_are_read(folder):
    assert list(Source(folder, "mimic3").texts(["2"])) == [[("2", "b")]]
    assert list(Source(folder, "mimic3").texts([])) == []


@pytest.fixture
def store(folder, tmp_path):
    store = create_store(tmp_path / "ward.duckdb", folder, "mimic3")
    sync(store)
    return store


def test_texts_of_notes_are_read_by_id_in_the_order_of_the_ids(store):
    assert read_texts(store, ["2", "1"]) == {"2": "b", "1": 'says "ouch",\ntwice'}
    assert read_texts(store, [2]) == {"2": "b"}
    assert read_texts(store, []) == {}
    with pytest.raises(TypeError, match=r"one note_id was given .* write \['12'\]"):
        read_texts(store, "12")


def test_a_note_of_a_duckdb_file_is_found_whose_id_is_written_in_another_way(folder, tmp_path):
    """DuckDB writes 2.0 where SQLAlchemy's reader of other databases writes 2."""
    file = tmp_path / "hospital.duckdb"
    with duckdb.connect(file) as con:
        for csv_file in folder.glob("*.csv"):
            con.execute(f"CREATE TABLE {csv_file.stem} AS FROM '{csv_file}'")
    own = own_schema(tmp_path / "own", "row_id AS", "CAST(row_id AS DOUBLE) AS")
    store = create_store(tmp_path / "ward.duckdb", file, own)
    sync(store)
    assert read_texts(store, ["2.0"]) == {"2.0": "b"}


@pytest.mark.parametrize(
    "notes",
    [[note(1, 7, "home")], [note(1, 7, "home"), note(2, 7, "edited")]],
    ids=["withdrawn", "edited"],
)
def test_a_text_is_not_read_that_differs_from_what_was_embedded(store, folder, notes):
    write_hospital(folder, [admission(7)], notes)
    with pytest.raises(
        SourceError, match=r"has no note 2, or another .* - run \"featurestore sync"
    ):
        read_texts(store, ["2"])


def test_no_text_is_read_of_a_note_that_the_store_does_not_have(store):
    with pytest.raises(UnknownNameError, match="has no note 3, 4, 5 and 1 others"):
        read_texts(store, ["1", "3", "4", "5", "6"])
    forget(store, [7])
    with pytest.raises(UnknownNameError, match="has no note 1 -"):
        read_texts(store, ["1"])


def test_compressed_files_and_lower_case_headers_read_the_same(folder, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    for file in folder.iterdir():
        header, _, rows = file.read_text().partition("\n")
        compressed = gzip.compress(f"{header.lower()}\n{rows}".encode())
        (other / f"{file.name.lower()}.gz").write_bytes(compressed)
    assert contents(other) == contents(folder)


def test_parquet_reads_the_same(folder, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    notes = pyarrow.csv.read_csv(
        folder / "NOTEEVENTS.csv",
        parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True),
        convert_options=pyarrow.csv.ConvertOptions(
            column_types=dict.fromkeys(["ROW_ID", "HADM_ID", "SUBJECT_ID"], pyarrow.string())
        ),
    )
    pyarrow.parquet.write_table(notes, other / "NOTEEVENTS.parquet")
    (other / "NOTEEVENTS.csv").unlink()
    assert contents(other) == contents(folder)


def test_a_custom_schema_reads_other_tables(folder, tmp_path):
    own = tmp_path / "our-hospital"
    own.mkdir()
    (folder / "ADMISSIONS.csv").rename(folder / "stays.csv")
    for name in ("admissions", "notes"):
        built_in = (SQL / "schemas" / "mimic3" / f"{name}.sql").read_text()
        select = built_in.replace("FROM admissions", "FROM stays")
        (own / f"{name}.sql").write_text(
            f"WITH ours AS (\n{select}\n)\nFROM ours  -- in a comment\n"
        )
    store = create_store(tmp_path / "w.duckdb", folder, own)
    assert sync(store)["notes"]["total"] == 2


def test_a_missing_table_is_named(folder):
    (folder / "ADMISSIONS.csv").unlink()
    with pytest.raises(
        SourceError, match=r"Table with name admissions does not exist! - give the folder"
    ):
        Source(folder, "mimic3").check()


def test_a_missing_table_of_notes_is_named(folder):
    (folder / "NOTEEVENTS.csv").unlink()
    with pytest.raises(
        SourceError, match=r"cannot run notes.sql of schema mimic3: .* noteevents does not exist"
    ):
        Source(folder, "mimic3").check()


def test_a_missing_column_is_named(folder):
    file = folder / "NOTEEVENTS.csv"
    file.write_text(file.read_text().replace("ISERROR", "ERRORFLAG", 1))
    with pytest.raises(
        SourceError, match=r'cannot run notes.sql of schema mimic3: .*"iserror" not found'
    ):
        Source(folder, "mimic3").check()


def test_a_location_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(SourceError, match="is not a folder, database file or URL - give the"):
        Source(tmp_path / "nowhere", "mimic3")


def test_an_unknown_schema_is_refused(folder):
    with pytest.raises(SourceError, match=r"schema .*nonsense does not exist - use fhir, mimic3"):
        Source(folder, "nonsense")


def test_a_table_in_two_files_is_refused(folder):
    shutil.copy(folder / "ADMISSIONS.csv", folder / "admissions.csv")
    with pytest.raises(SourceError, match="contains the table admissions twice"):
        Source(folder, "mimic3")


def test_a_database_error_never_quotes_a_note(folder, tmp_path):
    own = tmp_path / "own"
    shutil.copytree(SQL / "schemas" / "mimic3", own)
    bad = (own / "notes.sql").read_text().replace("row_id AS", "CAST(text AS BIGINT) AS")
    (own / "notes.sql").write_text(bad)
    with pytest.raises(SourceError) as refused:
        Source(folder, own).read("notes")
    assert "ouch" not in str(refused.value)
    assert refused.value.__cause__ is None and refused.value.__suppress_context__


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        (b'3,7,7,,,,,,,"PHI_CANARY never closed\r\n', "a quote is not closed"),
        (b"3,7,7,PHI_CANARY\r\n", "it has more or fewer columns than the first line"),
        (b"3,7,7,,,,,,,text,PHI_CANARY\r\n", "it has more or fewer columns than the first line"),
        (b'3,7,7,,,,,,,"PHI_CANARY' + b"w" * 40_000_000 + b'"\r\n', "it is longer than 32 MB"),
    ],
    ids=["an unclosed quote", "too few columns", "too many columns", "a line over 32 MB"],
)
def test_an_unreadable_line_is_named_but_not_quoted(folder, line, fault):
    with (folder / "NOTEEVENTS.csv").open("ab") as stream:
        stream.write(line)
    with pytest.raises(SourceError, match=r"line \d+ of NOTEEVENTS.csv cannot be read") as refused:
        Source(folder, "mimic3").read("notes")
    assert f"({fault}) - correct that line; nothing was changed" in str(refused.value)
    assert "PHI_CANARY" not in str(refused.value)


def test_a_note_of_ten_megabytes_and_a_note_with_a_nul_byte_are_read(folder):
    with (folder / "NOTEEVENTS.csv").open("ab") as stream:
        stream.write(b'3,7,7,,,,,,,"' + b"long " * 2_000_000 + b'"\r\n4,7,7,,,,,,,"a\x00b"\r\n')
    texts = dict(pair for pairs in Source(folder, "mimic3").texts(["3", "4"]) for pair in pairs)
    assert len(texts["3"]) == 10_000_000
    assert texts["4"] == "a\x00b"


@pytest.mark.parametrize("name", ["ADMISSIONS", "NOTEEVENTS"])
def test_an_empty_table_is_refused(folder, name, tmp_path):
    file = folder / f"{name}.csv"
    header = file.read_text().partition("\n")[0]
    store = create_store(tmp_path / "w.duckdb", folder, "mimic3")
    file.write_text(header + "\n")
    with pytest.raises(SourceError, match=r"has no rows for the .* of schema mimic3"):
        sync(store)
    file.write_text("")
    with pytest.raises(SourceError, match=f"Table with name {name.lower()} does not exist"):
        sync(store)


def test_unrelated_files_in_the_folder_are_ignored(folder):
    (folder / "scratch.csv").write_text("")
    (folder / "twice.csv").write_text("a,A\n1,2\n")
    (folder / "README.txt").write_text("hello")
    assert len(Source(folder, "mimic3").read("admissions")) == 1


@pytest.mark.parametrize("bad", [b"\xff\xfe", b"\xed\xa0\x80"], ids=["bytes", "lone surrogate"])
@pytest.mark.parametrize("compressed", [False, True])
def test_invalid_utf8_is_read_as_replacement_characters(folder, bad, compressed, capfd):
    file = folder / "NOTEEVENTS.csv"
    data = file.read_bytes() + b'3,7,7,,,,,,,"PHI_CANARY ' + bad + b' home"\r\n'
    file.write_bytes(data)
    if compressed:
        (folder / "NOTEEVENTS.csv.gz").write_bytes(gzip.compress(data))
        file.unlink()
    source = Source(folder, "mimic3")
    index = source.read("notes")
    text = "PHI_CANARY " + "\ufffd" * len(bad) + " home"
    assert index["text_hash"].to_pylist()[2] == text_hash(text)
    name = "NOTEEVENTS.csv.gz" if compressed else "NOTEEVENTS.csv"
    assert source.not_utf8 == f"{name}, line {len(data.splitlines())}"
    texts = dict(pair for notes in Source(folder, "mimic3").texts(["1", "3"]) for pair in notes)
    assert texts == {"1": 'says "ouch",\ntwice', "3": text}
    assert "PHI_CANARY" not in "".join(capfd.readouterr())


def test_other_notes_of_a_file_with_invalid_utf8_are_read_unchanged(folder):
    valid = Source(folder, "mimic3")
    before = valid.read("notes").to_pylist(), valid.read("admissions").to_pylist()
    with (folder / "NOTEEVENTS.csv").open("ab") as stream:
        stream.write(b"3,7,7,,,,,,,\xff\r\n")
    source = Source(folder, "mimic3")
    assert source.read("notes").to_pylist()[:-1] == before[0]
    assert source.read("admissions").to_pylist() == before[1]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("a.admittime,", "42 AS admittime,", "ADMITTIME of admissions is INTEGER, and should be a"),
        ("storetime,", "TIME '10:00' AS storetime,", "STORETIME of notes is TIME, and should be a"),
        ("a.hadm_id,", "DATE '2150-01-01' AS hadm_id,", "HADM_ID of admissions is DATE, and"),
        (
            "a.hospital_expire_flag AS died",
            "DATE '2150-01-01' AS died",
            "DIED_IN_HOSPITAL of admissions is DATE",
        ),
        ("    text\n", "    text::BLOB AS text\n", "TEXT of notes is BLOB, and should be a text"),
        (
            "    charttime,",
            "    TIMESTAMPTZ '2150-01-01 00:00:00+00' AS charttime,",
            "CHARTTIME of notes has a time zone .* select the hospital's local time in",
        ),
    ],
)
def test_a_column_of_an_unsuitable_type_is_named_before_any_row_is_read(
    folder, tmp_path, old, new, message
):
    own = own_schema(tmp_path / "own", old, new)
    with (folder / "NOTEEVENTS.csv").open("a") as stream:
        stream.write("an invalid,line")
    with pytest.raises(SourceError, match=message):
        create_store(tmp_path / "w.duckdb", folder, own)
    assert not (tmp_path / "w.duckdb").exists()


def test_colons_and_percent_signs_in_a_schema_are_not_parameters(folder, tmp_path):
    clock = "CASE WHEN category LIKE 'N%' THEN 'at :noon'::VARCHAR END AS category"
    own = own_schema(tmp_path / "own", "    category", f"    {clock}")
    source = Source(folder, own)
    source.check()
    assert set(source.read("notes")["category"].to_pylist()) == {"at :noon"}
    assert list(source.texts(["2"])) == [[("2", "b")]]


def test_a_flag_that_is_neither_true_nor_false_is_refused(folder, tmp_path):
    own = own_schema(
        tmp_path / "own", "CASE WHEN a.admission_type = 'ELECTIVE' THEN 1 ELSE 0 END", "'maybe'"
    )
    store = create_store(tmp_path / "w.duckdb", folder, own)
    with pytest.raises(SourceError, match=r"PLANNED is not TRUE or FALSE .*hadm_id 7"):
        sync(store)


@pytest.mark.parametrize("extra", [0, 20], ids=["between two rows", "in the middle of a row"])
def test_a_download_that_was_cut_short_is_refused_even_if_its_rows_can_be_read(tmp_path, extra):
    stays = [admission(n) for n in range(1, 3_001)]
    folder = write_hospital(tmp_path / "hospital", stays, [note(1, 7, "a")])
    text = (folder / "ADMISSIONS.csv").read_bytes()
    (folder / "ADMISSIONS.csv").unlink()
    file = folder / "ADMISSIONS.csv.gz"
    file.write_bytes(gzip.compress(text))
    assert len(Source(folder, "mimic3").read("admissions")) == 3_000

    half = sum(map(len, text.splitlines(keepends=True)[:1_501])) + extra
    packer = zlib.compressobj(wbits=31)
    file.write_bytes(packer.compress(text[:half]) + packer.flush(zlib.Z_FULL_FLUSH))
    store = tmp_path / "ward.duckdb"
    with pytest.raises(
        SourceError, match=r"hospital: ADMISSIONS.csv.gz is damaged or cut short - "
    ):
        sync(create_store(store, folder, "mimic3"))


def test_mimic4_without_its_notes_says_that_they_are_another_download(tmp_path):
    write_mimic4_hospital(tmp_path / "four", 5)
    shutil.rmtree(tmp_path / "four" / "note")
    with pytest.raises(SourceError, match="MIMIC-IV and MIMIC-IV-Note are two downloads: link "):
        Source(tmp_path / "four", "mimic4").check()
