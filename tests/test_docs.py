"""README and docs/ are correct: commands and Python blocks run, and all names exist."""

import base64
import contextlib
import grp
import json
import os
import re
import shlex
import shutil
import tomllib
from pathlib import Path
from typing import NamedTuple

import click
import pytest
from click.testing import CliRunner

import featurestore
from featurestore import Store, create_store, sync, write_hospital
from featurestore.cli import main
from featurestore.store.sql_files import SQL
from tests.featurestore.cli.json_shapes import EXAMPLES, check_json
from tests.featurestore.source.fhir.export import document, encounter, patient, write_export
from tests.featurestore.source.omop.cdm import from_mimic3, write_folder
from tests.hospital import write_sqlite

ROOT = Path(__file__).resolve().parent.parent
DOCS = [str(file.relative_to(ROOT)) for file in sorted((ROOT / "docs").glob("**/*.md"))]
PAGES = ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", *DOCS]
CLI = "docs/cli.md"
COMMANDS = main.list_commands(click.Context(main))
# Blocks that need a PostgreSQL server, the hub, or long: their commands are parsed, but not run.
ONLY_PARSED = ("FEATURESTORE_SOURCE='postgresql", "hf download", "featurestore demo", "bf16")


class Block(NamedTuple):
    """A fenced block of a page."""

    page: str
    language: str
    text: str


def read(page):
    return (ROOT / page).read_text()


def blocks(page, *languages):
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", read(page), re.M | re.S)
    return [Block(page, language, text) for language, text in fenced if language in languages]


def prose(page):
    """Return a page without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", read(page), flags=re.M | re.S)


def parse(arguments):
    """Parse a command line as the program does; return its context. Unknown options raise."""
    name, *rest = arguments
    command = main.get_command(click.Context(main), name)
    assert command, f"there is no command {name}"
    program = click.Context(main, info_name="featurestore", **main.context_settings)
    return command.make_context(name, rest, parent=program)


def remove_output(context):
    """Remove the output of a command: a page may show two ways to create the same file."""
    if context.info_name not in ("init", "finetune", "export", "synth"):
        return
    arguments = [p for p in context.command.params if isinstance(p, click.Argument)]
    output = context.params[arguments[-1].name]  # it is always the last argument
    output = output[-1] if isinstance(output, tuple) else output
    for path in output.parent.glob(f"{output.name}*"):
        if path.is_dir():
            shutil.rmtree(path)
        elif path.suffix != ".key":
            path.unlink()


def placeholder(word):
    """Return the word, or a value of the test store if the word is an id of an example."""
    if word == "staff":
        return grp.getgrgid(os.getgid()).gr_name
    query = {
        "102691": "SELECT min(hadm_id) FROM scores",
        "10269": "SELECT min(subject_id) FROM admissions",
        "5": "SELECT min(run_id) FROM scores",
        "NEW_ENCODER_ID": "SELECT encoder_id FROM encoders WHERE NOT active",
        "OLD_ENCODER_ID": "SELECT encoder_id FROM encoders WHERE NOT active",
    }.get(word)
    return str(Store("ward.duckdb").one(query)[0]) if query else word


def run_line(line):
    """Run a line of a `sh` block if it calls the program, and return what it prints.

    Otherwise check that the other tool is known.
    """
    program, *arguments = shlex.split(line, comments=True)
    if program != "featurestore":
        check_other_program(program, arguments)
        return ""
    arguments = [placeholder(word) for word in arguments]
    if not arguments[0].startswith("-"):
        remove_output(parse(arguments))
    if arguments[0] == "finetune":
        arguments += ["--epochs", "0.1", "--max-tokens", "64"]  # the default takes half a minute
    result = CliRunner().invoke(main, arguments)
    # The audit of a small store has findings, and says so by its status; its test stays are too few
    # to compare scorers on.
    expected = (0, 1) if arguments[0] in ("audit", "compare", "evaluate") else (0,)
    assert result.exit_code in expected, (line, result.output)
    return result.stdout


def check_other_program(program, arguments):
    match program, arguments:
        case "make", [target]:
            assert re.search(rf"^{target}:", read("Makefile"), re.M), target
        case "python", ["-m", "pytest", file]:
            assert (ROOT / file).is_file()
        case "python", ["-m", module, *_]:
            assert (ROOT / module.replace(".", "/")).with_suffix(".py").is_file(), module
        case "export", [assignment]:
            name, _, value = assignment.partition("=")
            os.environ[name] = value.replace("$PWD", str(Path.cwd()))
        case "unset", [name]:
            del os.environ[name]
        case "(umask", ["077;", "openssl", "rand", "-base64", "32", ">", "ward.key)"]:
            Path("ward.key").touch(mode=0o600)
            Path("ward.key").write_text(base64.b64encode(os.urandom(32)).decode() + "\n")
        case "pre-commit", ["install"]:
            assert (ROOT / ".pre-commit-config.yaml").is_file()
        case (("git" | "cd" | "." | "hf"), _):
            pass
        case _:
            pytest.fail(f"{program} is not a program that the pages use")


def run_block(block):
    if block.language == "python":
        exec(compile(block.text, block.page, "exec"), {})
        return
    only_parsed = any(words in block.text for words in ONLY_PARSED)
    for line in block.text.splitlines():
        if only_parsed and line.startswith("featurestore"):
            parse(shlex.split(line, comments=True)[1:])
        else:
            run_line(line)


@pytest.fixture
def environment(monkeypatch):
    """Unset the variables of the project; the environment is restored after the test."""
    for name in ("FEATURESTORE_SOURCE", "FEATURESTORE_KEY_FILE", "FEATURESTORE_KEY"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


@pytest.fixture(scope="module")
def walked(tmp_path_factory, checkpoint):
    """A folder in which the commands of the README were run in order."""
    folder = tmp_path_factory.mktemp("docs") / "walked"
    folder.mkdir()
    with contextlib.chdir(folder):
        write_hospital("mimic-iii", patients=60)
        write_sqlite("mimic3.sqlite", Path("mimic-iii"))
        write_folder(Path("omop-cdm"), from_mimic3(Path("mimic-iii")))
        Path("emilyalsentzer").mkdir()
        for name in ("emilyalsentzer/Bio_ClinicalBERT", "base"):
            Path(name).symlink_to(checkpoint)
        for block in blocks("README.md", "sh", "python"):
            run_block(block)
    return folder


@pytest.fixture(scope="module")
def prepared(walked):
    """That folder with a second encoder, MIMIC-IV, OMOP and labelled CSV files for other pages."""
    with contextlib.chdir(walked):
        for line in (
            "featurestore export base models/other --max-tokens 64",
            "featurestore embed ward.duckdb models/other --limit 20",
            "featurestore synth mimic-iv --patients 5 --schema mimic4",
        ):
            run_line(line)
        for name, first in (("train", 1), ("val", 11)):
            lines = [f"{first + no},lives alone,{no % 2}" for no in range(10)]
            Path(f"{name}.csv").write_text("\n".join(["ID,TEXT,Label", *lines]) + "\n")
        shutil.copytree(SQL / "schemas" / "omop", "our-cdm")
        write_export(Path("bulk-export"), [encounter(1), patient(), document(1, "lives alone")])
        Path("source").mkdir()
        for name, rows in OWN_TABLES.items():
            Path(f"source/{name}.csv").write_text(rows)
        Path("our-hospital").mkdir()
        for name in ("until-2139", "from-2140"):
            shutil.copytree(SQL / "schemas" / "mimic3", name)
        for block in [
            *blocks("docs/sources.md", "sql"),
            *blocks("docs/labels.md", "sql"),
            *blocks("docs/scaling.md", "sql"),
        ]:
            name, select = re.match(r"-- (\S+)\n(.*)", block.text, re.S).groups()
            Path(name).write_text(select)
    return walked


@pytest.fixture
def copied(prepared, tmp_path, monkeypatch, environment):
    """A copy of that folder, which a test may change."""
    shutil.copytree(prepared, tmp_path / "copy", symlinks=True)
    monkeypatch.chdir(tmp_path / "copy")


OWN_TABLES = {
    "stays": """\
stay,patient,arrived,left_at,died_at,urgency,destination,died_on,born,sex,payer
7,1,2020-01-01 08:00,2020-01-05 12:00,,acute,HOME,,1950-06-01,F,public
8,1,2020-01-09 08:00,2020-01-10 12:00,,elective,HOME,,1950-06-01,F,public
""",
    "documents": """\
id,patient,stay,kind,written,signed,status,body
a,1,7,Nursing,2020-01-02 10:00,2020-01-02 11:00,final,lives alone
b,1,7,Nursing,2020-01-02 10:00,,withdrawn,wrong patient
""",
}


def test_the_readme_has_ten_commands_two_for_the_night_and_six_lines_of_python(walked):
    (walk,) = (b.text for b in blocks("README.md", "sh") if "featurestore finetune" in b.text)
    assert [line.split()[1] for line in walk.splitlines()] == [
        *("init", "sync", "labels", "finetune", "export", "embed", "train", "score", "report"),
        "sql",
    ]
    (night,) = (b.text for b in blocks("README.md", "sh") if "nightly" in b.text)
    assert len(night.splitlines()) == 2
    (python,) = blocks("README.md", "python")
    assert len([line for line in python.text.splitlines() if line]) == 6
    assert len((walked / "scores.csv").read_text().splitlines()) > 20
    assert (walked / "report.html").is_file()


SLOW = ["docs/models.md"]  # it fine-tunes and exports


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=[pytest.mark.slow] if page in SLOW else [])
        for page in PAGES
        if blocks(page, "sh", "python") and page not in ("README.md", CLI)
    ],
)
def test_the_blocks_of_a_page_run(page, copied):
    for block in blocks(page, "sh", "python"):
        run_block(block)


@pytest.mark.parametrize("block", blocks(CLI, "sh"), ids=lambda block: block.text.split()[1])
def test_the_example_of_a_command_runs(block, copied):
    run_block(block)


# Those two need more test stays; tests/featurestore/cli/test_json.py runs them.
SHOWN = {line: v for line, v in EXAMPLES.items() if line.split()[1] not in ("compare", "evaluate")}


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(line, marks=[pytest.mark.slow] if line.split()[1] == "finetune" else [])
        for line in SHOWN
    ],
)
def test_the_json_of_a_command_has_the_shape_that_the_page_shows(line, copied):
    if "task drop" in line:
        run_line(next(shown for shown in SHOWN if "task add" in shown))
    check_json(json.loads(run_line(line)), SHOWN[line])


def test_the_cli_page_has_the_help_of_each_command():
    page = read(CLI)
    sections = re.findall(r"^## (\S+)\n(.*?)(?=^## |\Z)", page, re.M | re.S)
    assert {name for name, _ in sections} == set(COMMANDS)
    for name, section in sections:
        help_text = CliRunner().invoke(
            main, [name, "--help"], prog_name="featurestore", terminal_width=80
        )
        updated = re.sub(
            r"^```text\n.*?^```$",
            lambda _, text=help_text.stdout: f"```text\n{text}```",
            section,
            flags=re.M | re.S,
        )
        assert f"```sh\nfeaturestore {name} " in section, f"{name} has no example"
        page = page.replace(section, updated)
    if os.environ.get("UPDATE_DOCS"):
        (ROOT / CLI).write_text(page)
    assert read(CLI) == page, "UPDATE_DOCS=1 pytest tests/test_docs.py -k cli writes it"


def test_the_options_that_pages_name_exist():
    options = {"--help", "--debug", "--local-dir"}
    for name in COMMANDS:
        command = main.get_command(click.Context(main), name)
        for parameter in command.params:
            options |= {*parameter.opts, *parameter.secondary_opts}
    for page in PAGES:
        for code in re.findall(r"`([^`]+)`", prose(page)):
            if code.startswith("featurestore "):
                words = [word for word in code.split()[1:] if not word.startswith("-")]
                assert not words or words[0] in COMMANDS or words[0] == "COMMAND", (page, code)
            for option in re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", code):
                assert option in options or "tests.benchmarks" in code, (page, code)


def test_the_output_that_pages_show_is_that_of_the_demo(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_hospital("hospital", patients=1_000)
    for command in ("init demo.duckdb --source hospital --schema mimic3", "sync demo.duckdb"):
        assert CliRunner().invoke(main, command.split()).exit_code == 0
    shown = [block for page in PAGES for block in blocks(page, "console")]
    assert len(shown) == 3
    for block in shown:
        command, _, output = block.text.partition("\n")
        words = command.replace("demo/ward.duckdb", "demo.duckdb").split()
        assert words[:2] == ["$", "featurestore"]
        assert CliRunner().invoke(main, words[2:]).stdout == output
    early = ["labels", "demo.duckdb", "--horizon-days", "3", "--cutoff", "discharge"]
    (warning,) = re.findall(r"[\d,]+ of [\d,]+", CliRunner().invoke(main, early).stderr)
    assert f"at `--horizon-days 3` they are {warning}" in read("docs/labels.md")


@pytest.mark.slow
def test_the_readme_shows_what_the_demo_prints(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (shown,) = blocks("README.md", "text")
    result = CliRunner().invoke(main, ["demo", "demo", "--patients", "300"])
    assert result.exit_code == 0, result.output

    def shape(line):
        return re.sub(r"[\d.,()\s-]+", " ", line).strip()

    printed = {shape(line) for line in result.output.splitlines()}
    assert {shape(line) for line in shown.text.splitlines()} <= printed


def test_a_hospital_with_tables_of_its_own(copied):
    store = create_store("own.duckdb", "source", "our-hospital")
    sync(store)
    assert store.sql(
        "SELECT hadm_id, label, reason FROM readmission_labels() ORDER BY 1"
    ).fetchall() == [
        (7, False, "planned return"),
        (8, False, None),
    ]
    assert store.sql("SELECT note_id, status FROM notes ORDER BY 1").fetchall() == [
        ("a", "ready"),
        ("b", "excluded"),
    ]


def test_an_encrypted_store_is_encrypted(copied):
    for block in blocks("docs/privacy.md", "sh"):
        run_block(block)
    assert Store("ward.duckdb").is_encrypted()


def test_the_sql_page_names_every_table_column_view_and_macro(walked):
    page = read("docs/sql.md")
    with contextlib.chdir(walked):
        con = Store("ward.duckdb").connect()
    sections = dict(re.findall(r"^### (\w+)\n(.*?)(?=^##|\Z)", page, re.M | re.S))
    columns = con.sql(
        "SELECT table_name, column_name FROM duckdb_columns() "
        "WHERE database_name = 'store' AND table_name IN (SELECT table_name FROM duckdb_tables())"
    ).fetchall()
    assert {table for table, _ in columns} == {name for name in sections if name.islower()}
    for table, column in columns:
        assert f"`{column}`" in sections[table], (table, column)

    views_and_macros = page[page.index("## Views and macros") : page.index("## Tables of")]
    for (name,) in con.sql(
        "SELECT function_name FROM duckdb_functions() WHERE database_name = 'store' "
        "UNION SELECT view_name FROM duckdb_views() WHERE database_name = 'store'"
    ).fetchall():
        assert f"`{name}" in views_and_macros, name
    for name, listed in re.findall(r"^\| `(\w+)`[^|]*\| (`\w+`,.*) \|$", views_and_macros, re.M):
        arguments = {
            "training_set": "''",
            "score_admissions": "''",
            "scorer_parts": "''",
            "explain_admission": "'', 0",
            "similar_admissions": "0",
        }
        is_view = name in ("episodes", "latest_scores", "repeated_notes")
        call = name if is_view else f"{name}({arguments.get(name, '')})"
        described = con.sql(f"SELECT * FROM {call} LIMIT 0").columns
        assert re.findall(r"`(\w+)`", listed) == described, name


@pytest.mark.parametrize(
    ("page", "files"),
    [
        ("docs/sources.md", ["sync/incoming_notes"]),
        (
            "docs/labels.md",
            [
                *("macros/labels/patient_episodes", "macros/labels/readmission_labels"),
                *("tasks/in_hospital_mortality", "tasks/long_stay"),
            ],
        ),
    ],
)
def test_the_reasons_to_exclude_are_on_the_page(page, files):
    shown = " ".join(read(page).split())
    for file in files:
        for reason in re.findall(r"THEN '([a-z_ ]+)'", read(f"sql/{file}.sql")):
            assert reason in shown or reason == "ready", reason


def test_the_python_page_names_every_public_name():
    page = read("docs/python.md")
    for name in featurestore.__all__:
        assert f"`{name}`" in page, name


@pytest.mark.parametrize("page", PAGES)
def test_python_blocks_need_no_package_that_is_not_installed(page):
    for block in blocks(page, "python"):
        assert not re.search(r"\.(df|pl|torch|tf)\(|import (pandas|polars|torch)", block.text), page


@pytest.mark.parametrize("page", PAGES)
def test_command_lines_in_other_blocks_parse(page):
    for block in blocks(page, "ini", "text"):
        for line in re.findall(r"(?:^[\d *]+|=/\S*/)featurestore (.*)$", block.text, re.M):
            assert parse(shlex.split(line.partition(">>")[0]))


def test_the_tests_of_the_promises_exist():
    tests = (file.read_text() for file in (ROOT / "tests").rglob("test_*.py"))
    known = set(re.findall(r"^def (test_\w+)", "\n".join(tests), re.M))
    rows = re.findall(r"^\| (.+?) \| (`test_.+) \|$", read("docs/privacy.md"), re.M)
    assert len(rows) >= 17
    for promise, tests_of_it in rows:
        cited = set(re.findall(r"`(test_\w+)`", tests_of_it))
        assert cited and cited <= known, (promise, cited - known)


def test_the_readme_is_short_and_names_what_ci_runs():
    page = read("README.md")
    assert len(page.splitlines()) <= 150
    for command in ("make demo", "make check", "make test", "make test-all"):
        assert f"`{command}`" in page
        assert re.search(rf"^{command.split()[1]}:", read("Makefile"), re.M)
    run_by_ci = set(re.findall(r"^make ([\w-]+)", read(".ci/run"), re.M))
    assert run_by_ci <= set(re.findall(r"`make ([\w-]+)`", page))


@pytest.mark.parametrize("page", DOCS)
def test_a_page_says_first_what_it_is_for_and_is_linked_from_the_readme(page):
    title, empty, first, *_ = read(page).splitlines()
    assert re.fullmatch(r"# [A-Z].*", title) and not empty
    assert re.match(r"This page (is|describes|explains|lists)\b", first)
    assert f"]({page})" in read("README.md")


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", read(page)):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = (ROOT / page).parent / path if path else ROOT / page
        assert target.exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.+)$", target.read_text(), re.M)
            anchors = {re.sub(r"[^\w\- ]", "", h).lower().replace(" ", "-") for h in headings}
            assert anchor in anchors, link


@pytest.mark.parametrize("page", PAGES)
def test_files_targets_and_extras_that_a_page_names_exist(page):
    if page == "CHANGELOG.md":  # it also names what is gone
        return
    for path in re.findall(
        r"`((?:featurestore|export|batch|sql|docs|tests)/[\w./]*)`", prose(page)
    ):
        assert (ROOT / path).exists(), path
    for target in re.findall(r"`make ([\w-]+)`", read(page)):
        assert re.search(rf"^{target}:", read("Makefile"), re.M), target
    extras = tomllib.loads(read("pyproject.toml"))["project"]["optional-dependencies"]
    for extra in re.findall(r"\.\[(\w+)\]", read(page)):
        assert extra in extras, extra


def test_the_readme_lists_every_extra():
    extras = tomllib.loads(read("pyproject.toml"))["project"]["optional-dependencies"]
    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \|", read("README.md"), re.M)
    listed = [extra for row in rows for extra in row.replace("`", "").split(", ")]
    assert sorted(listed) == sorted(extras)


def test_the_packages_of_the_architecture_page_exist():
    (tree,) = blocks("docs/architecture.md", "text")
    folder, shown = ROOT, set()
    for line in tree.text.splitlines():
        names, _, _ = line.strip().partition("  ")
        if not line.startswith(" "):
            folder = ROOT / names
            assert folder.is_dir(), names
        else:
            for name in names.split():
                shown.add(folder / name)
                assert (folder / name).exists(), (folder, name)
    for package in ("featurestore", "export", "batch"):
        for entry in (ROOT / package).iterdir():
            hidden = entry.name.startswith(("_", ".")) or entry.name == "py.typed"
            assert hidden or entry in shown, f"{entry} is not on docs/architecture.md"
