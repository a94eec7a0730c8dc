"""Tasks: what can be predicted, added to a small hospital and dropped again."""

import json
import re

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from featurestore import create_store, embed_pending, sync, train, verify
from featurestore.cli import main
from featurestore.cohort.flow import admission_flow
from featurestore.cohort.meds_labels import write_meds
from featurestore.cohort.task_registry import add_task, drop_task
from featurestore.cohort.tasks import find_task, list_tasks
from featurestore.errors import FeatureStoreError, UnknownNameError
from tests.conftest import WordCounter
from tests.hospital import admission, note, own_schema, write_hospital
from tests.jobs import edited
from tests.timeline import day

CANARY = "zebrafish"
GOOD = """
-- does the patient stay over three days?
-- outcome: stayed over 3 days
SELECT hadm_id, dischtime > admittime + INTERVAL 3 DAYS AS label, NULL AS reason,
    greatest(dischtime, admittime + INTERVAL 3 DAYS) AS known_at
FROM admissions
"""


@pytest.fixture
def store(tmp_path):
    """Patients 1 and 2 with a long stay, 3 with a short one and a second, long one."""
    hospital = write_hospital(
        tmp_path / "hospital",
        [
            admission(1, 1, day(0), day(9)),
            admission(2, 2, day(0), day(5), deathtime=day(5), hospital_expire_flag=1),
            admission(3, 3, day(0), day(2)),
            admission(4, 3, day(40), day(50)),
        ],
        [
            note(1, 1, f"{CANARY} alone", day(0, 18)),
            note(2, 2, "pain", day(1)),
            note(3, 3, "home", day(1)),
            note(4, 4, "home", day(41), subject_id=3),
        ],
    )
    store = create_store(tmp_path / "w.duckdb", hospital, "mimic3")
    sync(store)
    return store


def add(store, text, name="own", suffix="sql"):
    file = store.path.parent / f"{name}.{suffix}"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return add_task(store, name, file)


def labels(store, task):
    rows = store.sql("SELECT hadm_id, label FROM task_labels(task := $t) ORDER BY 1", t=task)
    return dict(rows.fetchall())


def test_a_task_is_a_select_that_follows_the_admissions(store):
    counts = add(store, GOOD)
    assert counts == {
        "task": "own",
        "cutoff": None,
        "labels": 4,
        "positive": 3,
        "negative": 1,
        "unlabelled": 0,
    }
    assert labels(store, "own") == {1: True, 2: True, 3: False, 4: True}
    task = find_task(store, "own")
    assert (task.outcome, task.horizon_days, task.cutoff(store)) == (
        "stayed over 3 days",
        None,
        "72h",
    )
    with edited(store) as transaction:  # as a sync does
        transaction.con.execute("UPDATE admissions SET dischtime = admittime WHERE hadm_id = 1")
    assert labels(store, "own") == {1: False, 2: True, 3: False, 4: True}


def test_the_tasks_of_the_program_label_each_stay(store):
    assert labels(store, "in_hospital_mortality") == {1: False, 2: True, 3: False, 4: False}
    assert labels(store, "long_stay") == {1: True, 2: False, 3: False, 4: True}
    assert labels(store, "readmission") == {1: False, 2: None, 3: False, 4: False}
    assert labels(store, "clinicalbert") == {1: False, 2: None, 3: False, 4: False}
    assert labels(store, "death_or_readmission") == {1: False, 2: None, 3: False, 4: False}


def test_a_task_may_have_a_horizon(store):
    add(
        store,
        "SELECT hadm_id, label, reason, mature_at AS known_at "
        "FROM readmission_labels(horizon_days := $horizon_days + 30, deaths := 'positive') "
        "UNION ALL SELECT 1000, TRUE, NULL, NULL",  # of no admission: ignored
    )
    assert find_task(store, "own").horizon_days == 30
    assert find_task(store, "own", 60).horizon_days == 60
    query = "SELECT label FROM task_labels(task := 'own', horizon_days := $h) WHERE hadm_id = 3"
    assert [store.one(query, h=horizon)[0] for horizon in (1, 30)] == [False, True]


def test_a_task_that_decides_when_it_predicts_is_kept_by_every_night(store):
    counts = add(
        store,
        GOOD.replace("AS known_at", "AS known_at, admittime + INTERVAL 9 HOURS AS prediction_time"),
    )
    assert counts["cutoff"] == "task:own"
    embed_pending(store, WordCounter())
    rows = store.sql(
        "SELECT hadm_id, prediction_time, n_notes FROM admission_embeddings "
        "WHERE cutoff = 'task:own'"
    ).fetchall()
    assert rows == [(1, day(0, 21), 1)]  # the notes of the others came later
    assert store.sql("SELECT hadm_id FROM training_set(task := 'own')").fetchall() == [(1,)]
    with edited(store) as transaction:  # as a sync does
        transaction.con.execute("UPDATE admissions SET admittime = $1 WHERE hadm_id = 3", [day(1)])
    embed_pending(store, WordCounter())
    rows = store.sql(
        "SELECT hadm_id, prediction_time FROM admission_embeddings WHERE cutoff = 'task:own' "
        "ORDER BY 1"
    ).fetchall()
    assert rows == [(1, day(0, 21)), (3, day(1, 21))]
    with pytest.raises(FeatureStoreError, match="gives its own prediction times"):
        find_task(store, "own").cutoff(store, "24h")
    drop_task(store, "own")
    embed_pending(store, WordCounter())
    assert store.one("SELECT count(*) FROM admission_embeddings WHERE cutoff = 'task:own'") == (0,)
    with pytest.raises(duckdb.Error, match="unknown cutoff task:own"):
        store.sql("FROM prediction_times(cutoff := 'task:own')").fetchall()


def test_a_file_of_labels_is_a_task(store):
    counts = add(store, "hadm_id,label,reason\n1,true,\n3,0,\n4,,not asked\n77,1,\n", suffix="csv")
    assert counts == {
        "task": "own",
        "cutoff": None,
        "labels": 2,
        "positive": 1,
        "negative": 1,
        "unlabelled": 1,
        "not_in_store": 1,
    }
    rows = store.sql("SELECT hadm_id, label, reason FROM task_labels('own') ORDER BY 1").fetchall()
    assert rows == [(1, True, None), (3, False, None), (4, None, "not asked")]


def test_a_file_of_labels_as_pandas_writes_it(store):
    """Numbers beside empty cells are floats, and names may be those of MIMIC."""
    text = "HADM_ID, Label,KNOWN_AT\n1.0,1.0,2150-01-20\n 3 ,0.0,\n4.0,,\n"
    assert add(store, text, suffix="csv")["unlabelled"] == 1
    assert labels(store, "own") == {1: True, 3: False, 4: None}


def test_a_column_of_a_file_that_is_no_value_is_one_line(store, tmp_path):
    pq.write_table(pa.table({"hadm_id": [1], "label": [[True]]}), tmp_path / "own.parquet")
    with pytest.raises(
        FeatureStoreError, match=r"column label of .* is list<element: bool>, which"
    ):
        add_task(store, "own", tmp_path / "own.parquet")
    zoned = pa.array([day(1)], pa.timestamp("us", "Europe/Berlin"))
    rows = {"hadm_id": [1], "label": [True], "prediction_time": zoned}
    pq.write_table(pa.table(rows), tmp_path / "own.parquet")
    with pytest.raises(
        FeatureStoreError, match=r"prediction_time in row 1 .* is not a time without"
    ):
        add_task(store, "own", tmp_path / "own.parquet")


def test_labels_of_a_source_whose_ids_are_texts(tmp_path):
    schema = own_schema(tmp_path / "schema", "hadm_id,", "hadm_id AS source_hadm_id,")
    for file in schema.iterdir():
        file.write_text(file.read_text().replace("subject_id,", "subject_id AS source_subject_id,"))
    hospital = write_hospital(
        tmp_path / "hospital",
        [admission("E-7/2020", "P:ü"), admission("8", "9")],
        [note(1, "8", "home", subject_id="9")],
    )
    store = create_store(tmp_path / "w.duckdb", hospital, schema)
    sync(store)
    text = "hadm_id,label\nE-7/2020,true\n 8,false\nE-9/2020,true\n"
    assert add(store, text, "ids", "csv")["not_in_store"] == 1
    numbers = dict(store.sql("SELECT source_hadm_id, hadm_id FROM admissions").fetchall())
    assert labels(store, "ids") == {numbers["E-7/2020"]: True, numbers["8"]: False}
    text = f"hadm_id,label\n{numbers['8']},true\n"  # the number that stands for the text
    add(store, text, "numbers", "csv")
    assert labels(store, "numbers") == {numbers["8"]: True}
    text = f"subject_id,prediction_time,boolean_value\nP:ü,{day(1)},true\nx,{day(1)},true\n"
    assert add(store, text, "meds", "csv")["not_in_store"] == 1
    assert labels(store, "meds") == {numbers["E-7/2020"]: True}
    with pytest.raises(FeatureStoreError, match=r"hadm_id in row 2 of .* is not a number"):
        add(store, "hadm_id,label\n8,1\n,0\n", "none", "csv")


def test_the_prediction_times_of_a_task_that_is_not_there_are_an_error(store):
    embed_pending(store, WordCounter())
    for cutoff in ("task:own", "task:long_stay"):
        for job in (
            lambda cutoff=cutoff: admission_flow(store, cutoff=cutoff),
            lambda cutoff=cutoff: write_meds(
                store, store.path.with_suffix(".parquet"), cutoff=cutoff
            ),
            lambda cutoff=cutoff: train(store, "risk", WordCounter().id, cutoff, baseline=False),
        ):
            with pytest.raises(UnknownNameError, match=f"for the cutoff {cutoff} - it has none"):
                job()
    with pytest.raises(FeatureStoreError, match="unknown cutoff"):
        admission_flow(store, cutoff="\u0663h")  # a digit of another script


def meds_file(file, rows):
    columns = zip(*rows, strict=True)
    names = ("subject_id", "prediction_time", "boolean_value")
    pq.write_table(pa.table(dict(zip(names, map(pa.array, columns), strict=True))), file)
    return file


def test_meds_labels_belong_to_the_stay_of_their_prediction_time(store, tmp_path):
    labels_in = [
        (1, day(1), True),
        (2, day(5), False),  # the moment of discharge
        (3, day(3, 11), True),  # 47 hours after the discharge of stay 3
        (3, day(45), False),
        (3, day(20), True),  # no stay
        (9, day(1), True),  # no patient
        (1, None, None),  # as ACES writes a window that never ends
    ]
    file = meds_file(tmp_path / "labels.parquet", labels_in)
    counts = add_task(store, "sepsis", file)
    assert (counts["cutoff"], counts["not_in_store"]) == ("task:sepsis", 3)
    assert labels(store, "sepsis") == {1: True, 2: False, 3: True, 4: False}
    assert write_meds(store, tmp_path / "out.parquet", find_task(store, "sepsis")) == 4
    table = pq.read_table(tmp_path / "out.parquet")
    assert sorted(zip(*table.to_pydict().values(), strict=True)) == sorted(labels_in[:4])


def test_labels_of_the_meds_package_come_out_as_they_went_in(store, tmp_path):
    from meds import LabelSchema

    rows = {
        "subject_id": pa.array([1, 3], pa.int64()),
        "prediction_time": pa.array([day(1), day(1)], pa.timestamp("us")),
        "boolean_value": [True, False],
    }
    labels_in = LabelSchema.align(pa.table(rows))
    pq.write_table(labels_in, tmp_path / "in.parquet")
    add_task(store, "sepsis", tmp_path / "in.parquet")
    write_meds(store, tmp_path / "out.parquet", find_task(store, "sepsis"))
    assert LabelSchema.align(pq.read_table(tmp_path / "out.parquet")) == labels_in


TWICE = GOOD.replace("FROM admissions", "FROM admissions, range(2)")


@pytest.mark.parametrize(
    ("text", "suffix", "message"),
    [
        (TWICE, "sql", "gives admission 1 more than once"),
        (
            GOOD.replace("dischtime >", "1 +").replace(
                "+ INTERVAL 3 DAYS AS label", ":: DATE - DATE '2000-01-01' AS label"
            ),
            "sql",
            "label of the task own is BIGINT",
        ),
        (GOOD.replace("AS known_at", "AS known"), "sql", "the task own has no column known_at"),
        (
            GOOD.replace("INTERVAL 3 DAYS AS label", "INTERVAL 99 DAYS AS label"),
            "sql",
            "none of the 4 labels of the task own is TRUE",
        ),
        (
            GOOD.replace(
                "AS known_at", "AS known_at, admittime + INTERVAL 8 DAYS AS prediction_time"
            ),
            "sql",
            "knows the label of admission 2 before its prediction time",
        ),
        (GOOD.replace("FROM admissions", "FROM admission"), "sql", "no table or view admission"),
        (
            GOOD.replace("FROM admissions", "FROM read_csv('/etc/passwd')"),
            "sql",
            r"read_csv\(\) is not allowed",
        ),
        (
            GOOD.replace("FROM admissions", "FROM duckdb_settings()"),
            "sql",
            r"duckdb_settings\(\) is not allowed",
        ),
        ("FROM task_labels(task := 'own')", "sql", r"task_labels\(\) is not allowed"),
        (f"{GOOD}; DROP TABLE notes", "sql", "must be one SELECT"),
        ("SELECT", "sql", "the SELECT of the task own fails"),
        (
            GOOD.replace("3 DAYS AS label", "3 DAYS AND error(category) AS label"),
            "sql",
            "the SELECT of the task own fails: Referenced column",
        ),
        (
            GOOD.replace("FROM", ", admission_type AS event_at FROM"),
            "sql",
            "event_at of the task own is VARCHAR",
        ),
        (
            GOOD.replace("FROM", "FROM").replace("NULL AS reason", "$age AS reason"),
            "sql",
            r"unknown parameter \$age",
        ),
        (
            GOOD.replace(
                "AS known_at", "+ INTERVAL '0 days' AS x, 'infinity'::TIMESTAMP AS known_at"
            ),
            "sql",
            "the task own gives admission 1 an infinite time",
        ),
        (
            GOOD.replace("AS known_at", "AS known_at, NULL AS prediction_time"),
            "sql",
            "predicts no admission, as every prediction_time is NULL",
        ),
        (
            GOOD.replace("FROM", "FROM prediction_times(cutoff := 'task:own') JOIN").replace(
                "admissions", "admissions USING (hadm_id)"
            ),
            "sql",
            "fails: unknown cutoff task:own - tasks with a prediction time of their own: none$",
        ),
        (f"{GOOD} -- caf\xe9".encode("latin-1"), "sql", r"own.sql is not UTF-8"),
        ("hadm_id,outcome\n1,1\n", "csv", "has no column label"),
        ("hadm_id,label\n1,1\n2,maybe\n", "csv", "label in row 2 of .* is not a boolean"),
        ("hadm_id,label\n1,1\nx,0\n", "csv", "hadm_id in row 2 of .* is not a number"),
        ("hadm_id,label\n1,1\n1,0\n", "csv", "gives admission 1 more than once"),
        (
            "hadm_id,label,known_at,prediction_time\n1,1,2150-01-02,2150-01-03\n",
            "csv",
            "knows the label of admission 1 before its prediction time",
        ),
        (
            "subject_id,prediction_time,boolean_value\n1,soon,true\n",
            "csv",
            "prediction_time in row 1 of .* is not a time",
        ),
        ("hadm_id,label\n1,0\n", "csv", "none of the 1 labels"),
        ("no parquet", "parquet", "cannot be read as parquet"),
        ("hadm_id,label\n1.5,1\n", "csv", "hadm_id in row 1 of .* is not a number"),
        ("hadm_id,label\n", "csv", "has no rows"),
        ("hadm_id,label,label\n1,1,0\n", "csv", "has two columns label - rename one"),
        (
            "hadm_id,label,reason\n1,,too ill, says the ward\n",
            "csv",
            "row 1 of .* has more values than there are columns",
        ),
        *(
            (
                f"hadm_id,label,prediction_time\n1,1,{time}\n",
                "csv",
                "prediction_time in row 1 of .* is not a time without a zone, such as 2150-01-31",
            )
            for time in ("2150-01-02T10:00:00Z", "2150-01-02 10:00:00+02:00", "1/2/2150", "epoch")
        ),
    ],
)
def test_a_task_that_is_not_valid_changes_nothing(store, text, suffix, message):
    before = store.path.read_bytes()
    with pytest.raises(FeatureStoreError, match=message) as error:
        add(store, text, suffix=suffix)
    assert "\n" not in str(error.value)
    assert CANARY not in str(error.value)
    assert store.path.read_bytes() == before


def test_a_value_that_cannot_be_cast_is_not_quoted(store):
    text = GOOD.replace(
        "NULL AS reason", "CAST(CAST(admission_type AS INTEGER) AS VARCHAR) AS reason"
    )
    with pytest.raises(FeatureStoreError, match="the SELECT of the task own fails") as error:
        add(store, text)
    assert "EMERGENCY" not in str(error.value)


def test_a_task_that_is_no_longer_valid_is_said_and_can_be_dropped(store):
    """Its SELECT was valid when it was added; then the data changed."""
    add(
        store,
        "SELECT a.hadm_id, TRUE AS label, a.insurance AS reason, a.dischtime AS known_at, "
        "a.admittime AS prediction_time FROM admissions AS a LEFT JOIN admissions AS b "
        "ON a.insurance = b.insurance",
    )
    embed_pending(store, WordCounter())
    with edited(store) as transaction:  # as a sync does
        transaction.con.execute("UPDATE admissions SET insurance = 'Private'")
    for job in (lambda: find_task(store, "own"), lambda: embed_pending(store, WordCounter())):
        with pytest.raises(FeatureStoreError, match="gives admission 1 more than once - correct"):
            job()
    drop_task(store, "own")
    embed_pending(store, WordCounter())


def test_a_select_in_capitals_with_a_byte_order_mark_is_a_task(store):
    text = "SELECT HADM_ID, TRUE AS LABEL, NULL AS REASON, DISCHTIME AS KNOWN_AT FROM ADMISSIONS;;"
    assert add(store, text.encode("utf-8-sig"))["positive"] == 4
    timed = text.replace("AS KNOWN_AT", "AS KNOWN_AT, ADMITTIME AS PREDICTION_TIME")
    assert add(store, timed, "timed")["cutoff"] == "task:timed"


def test_labels_of_a_live_hospital_must_become_known(store):
    never = GOOD.replace("greatest(dischtime, admittime + INTERVAL 3 DAYS) AS", "NULL AS")
    add(store, never, "extract")  # whose labels are all mature
    with edited(store) as transaction:
        transaction.con.execute("UPDATE settings SET live = TRUE, observed_until = now()")
    with pytest.raises(FeatureStoreError, match="so in a live hospital none is ever mature"):
        add(store, never)


def test_a_task_whose_prediction_times_another_uses_is_dropped_after_that(store):
    timed = "AS known_at, admittime + INTERVAL 9 HOURS AS prediction_time"
    add(store, GOOD.replace("AS known_at", timed), "first")
    users = "AS known_at FROM prediction_times(cutoff := 'task:first') JOIN"
    text = GOOD.replace("AS known_at\nFROM", users)
    add(store, text.replace("admissions", "admissions USING (hadm_id)"), "second")
    with pytest.raises(FeatureStoreError, match="second uses the prediction times of first - drop"):
        drop_task(store, "first")
    drop_task(store, "second")
    embed_pending(store, WordCounter())
    drop_task(store, "first")
    assert verify(store) == []  # though the means at its prediction times wait for the next job


def test_names_of_tasks(store):
    with pytest.raises(FeatureStoreError, match="not a valid name of a task"):
        add(store, GOOD, name="Own")
    with pytest.raises(FeatureStoreError, match="long_stay already - give this one another"):
        add(store, GOOD, name="long_stay")
    add(store, GOOD)
    with pytest.raises(FeatureStoreError, match="has a task own already"):
        add(store, GOOD)
    with pytest.raises(UnknownNameError, match=r"has no task other - it has readmission, .*, own"):
        find_task(store, "other")
    with pytest.raises(duckdb.Error, match=r"unknown task other - known: readmission, .*own"):
        store.sql("FROM task_labels(task := 'other')").fetchall()
    with pytest.raises(FeatureStoreError, match="long_stay is a task of the program"):
        drop_task(store, "long_stay")
    assert find_task(store, rule={"deaths": "positive"}).outcome == "returned or died"
    with pytest.raises(FeatureStoreError, match="has no parameter min_age"):
        find_task(store, "own", rule={"min_age": 18})


def test_the_commands_add_list_and_drop(store):
    (store.path.parent / "own.sql").write_text(GOOD)

    def run(*arguments):
        result = CliRunner().invoke(main, ["task", *map(str, arguments)])
        assert result.exit_code == 0, result.output
        return result.stdout

    added = run("add", store.path, "own", store.path.parent / "own.sql")
    assert added == "own: 4 labels, 3 positive\n"
    assert re.search(r"^own +stayed over 3 days$", run("list", store.path), re.MULTILINE)
    tasks = {task["name"]: task for task in json.loads(run("list", store.path, "--json"))}
    assert tasks["own"]["sql"] == GOOD.strip()
    assert tasks["readmission"]["parameters"] == [
        "deaths",
        "horizon_days",
        "min_age",
        "planned_types",
        "same_day",
    ]
    assert run("drop", store.path, "own") == "own dropped\n"
    assert [task["name"] for task in list_tasks(store)][-1] == "icu_readmission"
