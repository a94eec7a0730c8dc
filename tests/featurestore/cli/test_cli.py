"""The commands as a user types them: output, error messages and exit statuses."""

import json
import re
import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from featurestore import Store, info
from featurestore.cli.group import COMMANDS, main
from featurestore.source.schemas import built_in_schemas
from tests.hospital import admission, note, write_hospital
from tests.timeline import day


def run(*arguments, ok=True):
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert (result.exit_code == 0) == ok, result.output
    return result


@pytest.fixture
def ward(tmp_path):
    """A synced store of two stays."""
    stays = [admission(7), admission(8, discharge_location="DEAD/EXPIRED")]
    notes = [note(1, 7, "chest pain"), note(2, 8, "home", iserror=1)]
    folder = write_hospital(tmp_path / "hospital", stays, notes)
    run("init", tmp_path / "ward.duckdb", "--source", folder, "--schema", "mimic3")
    run("sync", tmp_path / "ward.duckdb")
    return tmp_path / "ward.duckdb"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name):
    command = main.get_command(click.Context(main), name)
    assert command.get_short_help_str(200) == COMMANDS[name][1]
    assert COMMANDS[name][1] in run(name, "--help").output


def test_help_takes_under_half_a_second_and_loads_nothing_heavy():
    script = (
        "import sys, time; from featurestore.cli import main; "
        "main(['--help'], standalone_mode=False); "
        "heavy = {'duckdb', 'numpy', 'rich', 'torch', 'sklearn', 'sqlalchemy', 'onnxruntime'}; "
        "print(time.process_time(), *heavy & {*sys.modules}, file=sys.stderr)"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True
    )
    seconds, *heavy = result.stderr.split()
    assert float(seconds) < 0.5  # CPU time, so that other work on the machine does not count
    assert heavy == []
    assert all(name in result.stdout for name in COMMANDS)


def test_sync_prints_its_counts(ward):
    output = run("sync", ward).stdout
    assert re.search(r"^notes +2   0 new, 0 changed, 0 withdrawn$", output, re.M)
    assert re.search(r"^  ready +1$", output, re.M)
    assert re.search(r"^  excluded +1   flagged as an error$", output, re.M)
    assert json.loads(run("sync", ward, "--json").stdout)["admissions"]["total"] == 2


def test_labels_show_the_flow_of_admissions(ward):
    lines = run("labels", ward).stdout.splitlines()
    assert lines[:6] == [
        "admissions                                          2",
        "  excluded                                          1   50.0%",
        "    died in hospital                                1   50.0%",
        "  labelled                                          1   50.0%",
        "    returned within 30 days                         0    0.0%",
        "    did not return                                  1  100.0%",
    ]
    counts = json.loads(run("labels", ward, "--rule", "clinicalbert", "--json").stdout)
    # The rule of ClinicalBERT excludes deaths by DEATHTIME only, and this stay has none.
    assert counts["excluded"] == []


def test_labels_name_the_caveats_of_the_source_and_of_the_rule(ward):
    lines = run("labels", ward).stdout.splitlines()[-4:]
    assert [line[:24] for line in lines] == [
        "- MIMIC-III holds nearly",
        "- the rule counts a retu",
        "- the rule decides by ad",
        "- the rule includes psyc",
    ]
    by_rule = {
        rule: json.loads(run("labels", ward, "--rule", rule, "--json").stdout)["caveats"]
        for rule in ("readmission", "clinicalbert")
    }
    assert [caveat["message"] for caveat in by_rule["readmission"]] == [line[2:] for line in lines]
    assert by_rule["clinicalbert"] == by_rule["readmission"][:1]


def test_labels_show_where_the_rules_disagree(ward):
    assert run("labels", ward, "--compare").stdout.splitlines()[1:] == [
        "died in hospital                    did not return                 1",
    ]
    assert json.loads(run("labels", ward, "--compare", "--json").stdout) == [
        {"readmission": "died in hospital", "clinicalbert": "did not return", "admissions": 1}
    ]


def test_labels_are_written_as_meds(ward, tmp_path):
    output = run("labels", ward, "--meds", tmp_path / "labels.parquet", "--cutoff", "24h").stdout
    assert output == f"1 labels of admissions predicted at 24h in {tmp_path / 'labels.parquet'}\n"
    assert (tmp_path / "labels.parquet").is_file()


def test_sql_prints_csv_json_and_tables(ward):
    query = "SELECT hadm_id, planned, dod FROM admissions ORDER BY hadm_id"
    assert run("sql", ward, query, "--format", "csv").stdout.splitlines() == [
        "hadm_id,planned,dod",
        "7,False,",
        "8,False,",
    ]
    assert json.loads(run("sql", ward, query, "--format", "json").stdout)[0] == {
        "hadm_id": 7,
        "planned": False,
        "dod": None,
    }
    assert "hadm_id" in run("sql", ward, query).stdout


def test_sql_refuses_to_change_the_store_or_read_files(ward):
    for query in ("DROP TABLE notes", "FROM read_text('/etc/hostname')", "SELEC 1"):
        result = run("sql", ward, query, ok=False)
        assert result.exit_code == 1
        assert result.stderr.startswith("Error: ")


def test_info_shows_what_the_store_contains(ward):
    output = run("info", ward).stdout
    assert re.search(r"^notes +1 ready, 1 excluded$", output, re.M)
    assert "encoders: none yet" in output
    contents = json.loads(run("info", ward, "--json").stdout)
    assert contents["admissions"] == 2
    assert [row["command"] for row in contents["runs"]] == ["sync", "init"]


def test_embed_train_and_score_run_in_sequence(ward, model, tmp_path, write_prose):
    stays, notes = [], []
    for patient in range(1, 301):
        stays.append(admission(patient, patient, day(0), day(10)))
        if patient % 2:
            stays.append(admission(1000 + patient, patient, day(20), day(21)))
        text = "chest pain " * 9 if patient % 2 else "home clear " * 9
        notes.append(note(patient, patient, text))
    write_hospital(tmp_path / "hospital", stays, notes)
    run("sync", ward)
    result = run("embed", ward, model, "--device", "cpu", "--json")
    assert json.loads(result.stdout)["embedded"] == 300
    assert "on CPUExecutionProvider" in result.stderr
    assert "embedded 300  windows 300  provider CPUExecutionProvider" in run("info", ward).stdout
    assert "0 embedded" in run("embed", ward, model).stdout
    output = run("train", ward, "readmit").stdout
    assert output.startswith("readmit-v1  the mean of the windows, C = ")
    assert re.search(r"^scorer +1\.000 \(0\.\d{3}-1\.000\) +1\.000 ", output, re.M)
    assert re.search(r"^bag of words +1\.000", output, re.M)
    assert re.search(r"^prevalence +0\.500", output, re.M)
    assert re.search(
        r"^- the outcomes of training patients, .* are separated completely", output, re.M
    )
    assert re.search(r"^- only \d+ test stays returned: with fewer than 100", output, re.M)
    assert "readmit-v1" in run("scorers", ward).stdout
    output = run("score", ward, "readmit", "-o", tmp_path / "scores.csv").stdout
    assert output.startswith("300 admissions scored by readmit-v1: run 5 of ")
    first = (tmp_path / "scores.csv").read_text().splitlines()[1].split(",")
    assert int(first[0]) % 2 == 1 and float(first[1]) > 0.5
    (encoder,) = [row["encoder"] for row in info(Store(ward))["encoders"]]
    assert "is the active encoder" in run("promote", ward, encoder).stdout
    assert run("embed", ward, model).stderr == f"{encoder} on CPUExecutionProvider\n"
    with Store(ward).transaction("test") as transaction:
        transaction.con.execute("UPDATE encoders SET active = FALSE")
        transaction.con.execute(
            "INSERT INTO encoders BY NAME "
            "SELECT * REPLACE ('newer' AS encoder_id, TRUE AS active) FROM encoders"
        )
    assert run("embed", ward, model).stderr.endswith(
        "newer is still the active encoder, which train and similar use - "
        f'"featurestore promote {ward} {encoder}" changes that\n'
    )
    assert re.search(
        rf"^  encoder {encoder}  dim 128  .*active False", run("info", ward).stdout, re.M
    )


def test_the_columns_of_task_list_are_apart(ward):
    lines = run("task", "list", ward).stdout.splitlines()
    assert re.split(r" {2,}", lines[5]) == [
        "icu_readmission", "returned to intensive care", "task:icu_readmission",
    ]  # fmt: skip


def test_sql_says_which_file_it_wrote(ward, tmp_path):
    result = run("sql", ward, "FROM admissions", "-o", tmp_path / "stays.parquet")
    assert (result.stdout, result.stderr) == ("", f"{tmp_path / 'stays.parquet'} is written\n")


def test_synth_writes_a_hospital(tmp_path):
    output = run("synth", tmp_path / "h", "--patients", 5).stdout
    assert output.startswith("5 patients, ")
    second = run("synth", tmp_path / "h", "--patients", 5, ok=False)
    assert second.exit_code == 1
    assert "exists" in second.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sync", "nowhere.duckdb"], "nowhere.duckdb does not exist"),
        (["embed", "WARD", "nowhere"], "nowhere is not a model folder"),
        (["train", "WARD", "x"], "holds no embeddings"),
        (["score", "WARD", "x"], "holds no scorer x: it has none"),
        (["init", "new.duckdb", "--source", "nowhere", "--schema", "mimic3"], "is not a folder"),
        (["finetune", "WARD", "ck", "--base", "./nowhere"], "./nowhere does not exist"),
        (["export", "./nowhere", "model"], "./nowhere does not exist"),
        (["promote", "WARD", "x-1"], "holds no embeddings"),
    ],
)
def test_invalid_input_gives_one_line_and_exit_status_1(
    ward, tmp_path, monkeypatch, arguments, message
):
    monkeypatch.chdir(tmp_path)
    before = sorted(path.name for path in tmp_path.iterdir())
    result = run(*[ward if a == "WARD" else a for a in arguments], ok=False)
    assert result.exit_code == 1
    lines = [line for line in result.stderr.splitlines() if line.startswith("Error")]
    assert len(lines) == 1 and message in lines[0] and " - " in lines[0]
    assert sorted(path.name for path in tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    "arguments",
    [
        ["finetune", "WARD", "ck", "--base", "b", "--batch-size", "0"],
        ["finetune", "WARD", "ck", "--base", "b", "--epochs", "0"],
        ["finetune", "WARD", "ck", "--base", "b", "--learning-rate", "-1"],
        ["finetune", "WARD", "ck", "--base", "b", "--cutoff", "5 days"],
        ["export", "ck", "model", "--max-tokens", "0"],
        ["export", "ck", "model", "--opset", "999"],
        ["labels", "WARD", "--horizon-days", "-1"],
        ["train", "WARD", "x", "--cutoff", "discharge+x"],
        ["embed", "WARD", "model", "--limit", "-1"],
    ],
)
def test_an_option_out_of_range_is_a_usage_error(ward, arguments):
    result = run(*[ward if a == "WARD" else a for a in arguments], ok=False)
    assert result.exit_code == 2


def test_an_id_that_is_a_text_is_refused_with_where_its_number_is(ward):
    result = run("explain", ward, "stay-1", ok=False)
    assert result.exit_code == 2
    assert "'stay-1' is not an integer" in result.stderr
    assert "source_hadm_id" in result.stderr


def test_export_refuses_windows_longer_than_the_model_supports(checkpoint, tmp_path):
    result = run("export", checkpoint, tmp_path / "m", "--max-tokens", 1000, ok=False)
    assert "has 512 positions, fewer than 1000 tokens" in result.stderr
    result = run("export", "nowhere", tmp_path / "m", ok=False)
    assert "nowhere does not exist - name the folder of a checkpoint" in result.stderr


def test_export_prints_how_far_the_graph_differs_from_pytorch(checkpoint, tmp_path):
    from export.onnx_export.exporter import recommended_precision

    result = run("export", checkpoint, tmp_path / "m", "--max-tokens", 64)
    difference = (
        r"differs from PyTorch by at most \d\.\de-0\d \(cosine (1\.0|0\.9)\d{6}, mean-centred"
    )
    assert re.search(
        rf"^small-[0-9a-f]{{8}} in .*: cls pooling, windows of 64 tokens; {difference} cosine "
        r"1\.0000\)$",
        result.stdout,
        re.MULTILINE,
    )
    precision, reason = recommended_precision()
    advice = f"On this machine use --precision {precision}: {reason}.\n"
    assert result.stderr == (advice if precision != "fp32" else "")


def test_commands_on_a_store_that_was_never_synced_suggest_sync(ward, model, tmp_path):
    run("init", tmp_path / "new.duckdb", "--source", tmp_path / "hospital", "--schema", "mimic3")
    for command in (["labels"], ["embed"]):
        arguments = [*command, tmp_path / "new.duckdb", *([model] if command == ["embed"] else [])]
        assert '"featurestore sync' in run(*arguments, ok=False).stderr


def test_a_second_job_exits_with_75_and_names_the_first(ward):
    with Store(ward).lock("nightly"):
        result = run("sync", ward, ok=False)
    assert result.exit_code == 75
    assert "is being changed by featurestore nightly (pid" in result.stderr


def test_an_unexpected_error_shows_its_place_but_no_value(ward, monkeypatch):
    import featurestore.source.sync

    def broken(*_):
        raise KeyError("PHI_CANARY: lives alone")

    monkeypatch.setattr(featurestore.source.sync, "sync", broken)
    result = run("sync", ward, ok=False)
    assert re.match(r"Error: KeyError in test_cli.py, line \d+ - please report", result.stderr)
    assert "PHI_CANARY" not in result.output


def test_without_a_terminal_progress_is_printed_as_lines(monkeypatch, capfd):
    from featurestore.cli import progress

    monkeypatch.setattr(progress, "_SECONDS_PER_LINE", 0.0)
    with progress.progress("notes") as advance:
        advance(50, 200, "3.1 windows/s")
    printed = capfd.readouterr()
    assert printed.out == ""
    assert re.fullmatch(r"notes: 50 of 200, 0 min left 3.1 windows/s\n", printed.err)


def test_the_help_of_init_names_every_built_in_schema():
    shown = CliRunner().invoke(main, ["init", "--help"]).output
    assert [name for name in built_in_schemas() if name not in shown] == []
