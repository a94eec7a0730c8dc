"""The structure of the code: imports, SQL in files, size of folders, names.

Each check is a function that returns its findings for a tree of files. It runs on this project and
on a tiny tree that breaks the rule, so that a check which finds nothing is known to work.
"""

import ast
import re
import sys
import tomllib
from fnmatch import fnmatch
from itertools import chain
from pathlib import Path

import pytest

import featurestore

ROOT = Path(__file__).resolve().parents[1]
WINGS = ("featurestore", "export", "batch")

# From low to high: a module imports from its own layer and from those below it.
LAYERS = (
    ("featurestore", "featurestore.errors", "featurestore.version"),
    ("featurestore.store",),
    ("featurestore.synthetic", "featurestore.source", "featurestore.cohort", "featurestore.query"),
    ("featurestore.cli",),
    (
        "export",
        "export.checkpoint",
        "export.cpu",
        "export.model_folder",
        "export.output_folder",
        "export.onnx_session",
        "export.tokenizer",
    ),
    ("export.onnx_export", "export.finetuning"),
    ("export.cli",),
    ("batch", "batch.embedding"),
    ("batch.training",),
    ("batch.scoring",),
    ("batch.demo", "batch.nightly_job"),
    ("batch.report",),
    ("batch.cli",),
)
LAYER_OF = {package: number for number, layer in enumerate(LAYERS) for package in layer}

MOST_ENTRIES = 14  # "about a dozen" in a folder
MOST_SQL_LINES = 3  # of a statement in a Python string

# Names that say nothing about what they hold, and former names of things that have a standard one.
WRONG_NAMES = set(
    "told found there asked said held dice worth fitting health reach answers catalogue "
    "trail envelope labelled unfinished cls_graph Judge judge Kept unseen some of per Cutter "
    "cut_windows Rest Even even_out _NEVER Change change anew facts Difference follow gone "
    "take_over _follow _ahead _account half_made judge_parity twice faults set_aside vectors_hash "
    "share_above past_embeddings scorer_rows former_stays together itself beside".split()
)
WRONG_PHRASES = (
    "the whole way",
    "word piece",
    "set aside",
    "audit trail",
    "stands beside",
    "less the mean vector",
    "is worth",
    "anew",
    "half made",
)


# --- modules and their imports


def modules(root):
    """Return the path of each module of the three packages by its dotted name."""
    paths = {}
    for path in sorted(path for wing in WINGS for path in (root / wing).rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        paths[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return paths


def is_type_checking(node):
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


def walk_runtime(node):
    """Yield the nodes below one, also those inside functions, but for TYPE_CHECKING blocks."""
    for child in ast.iter_child_nodes(node):
        if is_type_checking(child):
            continue
        yield child
        yield from walk_runtime(child)


def imported_names(tree, package):
    """Yield the dotted names that a module imports, as `module` or `module.name`."""
    for node in walk_runtime(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if node.level:
                base = package.split(".")[: len(package.split(".")) - node.level + 1]
                module = ".".join([*base, module]).strip(".")
            yield from (f"{module}.{alias.name}" for alias in node.names)
        elif (
            isinstance(node, ast.Call)
            and ast.unparse(node.func).endswith("import_module")
            and isinstance(node.args[0], ast.Constant)
        ):
            yield node.args[0].value


def imports(root):
    """Return for each module the set of the project's modules that it imports."""
    paths = modules(root)
    graph = {}
    for module, path in paths.items():
        package = module if path.name == "__init__.py" else module.rpartition(".")[0]
        graph[module] = set()
        for name in imported_names(ast.parse(path.read_text()), package):
            owner, _, attribute = name.rpartition(".")
            if owner == "featurestore":  # `from featurestore import Store` loads store by name
                name = featurestore._MODULE_OF.get(attribute, name)
            while name and name not in paths:
                name = name.rpartition(".")[0]
            if name and name != module:
                graph[module].add(name)
    return graph


def room(module, packages):
    """Return the sub-package of a module, or the module itself where it lies in no sub-package."""
    first_two = ".".join(module.split(".")[:2])
    return first_two if first_two in packages else module.split(".")[0]


def rooms(graph):
    """Return the imports between sub-packages and top-level modules."""
    packages = {name for name in graph if name.count(".") == 1}
    between = {}
    for module, targets in graph.items():
        here = room(module, packages)
        between.setdefault(here, set()).update(room(target, packages) for target in targets)
        between[here].discard(here)
    return between


def circles(graph):
    """Return each circle of imports once, as the list of its members."""
    closed, all_circles = set(), []

    def visit(node, path):
        if node in path:
            all_circles.append([*path[path.index(node) :], node])
        elif node not in closed:
            for target in sorted(graph[node]):
                visit(target, [*path, node])
            closed.add(node)

    for node in sorted(graph):
        visit(node, [])
    return [" -> ".join(circle) for circle in all_circles]


def climbing_imports(graph):
    """Return the imports that run up to a higher layer, and modules that no layer names."""
    packages = {name for name in graph if name.count(".") == 1}
    findings = []
    for module, targets in sorted(graph.items()):
        here = room(module, packages)
        if here not in LAYER_OF:
            findings.append(f"{here} stands in no layer of {Path(__file__).name}")
            continue
        findings += [
            f"{module} imports {target}"
            for target in sorted(targets)
            if LAYER_OF.get(room(target, packages), -1) > LAYER_OF[here]
        ]
    return findings


def click_outside_cli(root):
    """Return the modules outside a cli that import click: library code raises plain errors."""
    return [
        module
        for module, path in modules(root).items()
        if ".cli" not in module
        and any(
            name.split(".")[0] == "click"
            for name in imported_names(ast.parse(path.read_text()), module)
        )
    ]


def module_names(root):
    """Return modules named like the standard library, a dependency or a name of their package."""
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    required = chain(project["dependencies"], *project["optional-dependencies"].values())
    taken = {re.match(r"[\w-]+", name)[0].lower().replace("-", "_") for name in required}
    taken |= {*sys.stdlib_module_names, "sklearn", "psycopg"}
    findings = []
    for module, path in modules(root).items():
        name = module.rpartition(".")[2]
        if name in taken:
            findings.append(f"{module} is named like the library {name}")
        if path.name == "__init__.py":
            handed_on = {
                alias.asname or alias.name
                for node in ast.parse(path.read_text()).body
                if isinstance(node, ast.ImportFrom)
                for alias in node.names
            }
            siblings = {child.stem for child in path.parent.iterdir()} & handed_on
            findings += [f"{module}.{name} is a module and a function" for name in siblings]
    return findings


# --- SQL in Python strings

STATEMENT = re.compile(
    r"\b(SELECT|INSERT INTO|MERGE INTO|CREATE (OR REPLACE )?(TEMP )?(TABLE|VIEW|MACRO))\b"
    r"|^\s*(WITH|UPDATE|DELETE FROM|FROM|COPY)\s"
)


def strings(tree):
    """Yield (node, text) of each string that is not a docstring.

    Strings that are written side by side, or added with `+`, count as one.
    """
    if isinstance(tree, ast.Expr) and isinstance(tree.value, ast.Constant):
        return  # a docstring
    parts = list(ast.walk(tree))
    is_sum = isinstance(tree, ast.BinOp) and isinstance(tree.op, ast.Add)
    if isinstance(tree, ast.JoinedStr) or is_sum or isinstance(tree, ast.Constant):
        texts = [
            part.value
            for part in parts
            if isinstance(part, ast.Constant) and isinstance(part.value, str)
        ]
        if texts:
            yield tree, " ".join(texts)
        return
    for child in ast.iter_child_nodes(tree):
        yield from strings(child)


def long_sql(root):
    """Return the SQL statements in Python strings of more than three lines."""
    findings = []
    for module, path in modules(root).items():
        source = path.read_text()
        for node, text in strings(ast.parse(source)):
            segment = ast.get_source_segment(source, node)
            written = [line for line in segment.splitlines() if line.strip("\"' fr")]
            length = max(len(written), 0 if len(written) > 1 else text.count("\n") + 1)
            if STATEMENT.search(text) and length > MOST_SQL_LINES:
                findings.append(f"{module}:{node.lineno} holds {length} lines of SQL")
    return findings


# --- folders


def crowded_folders(root):
    """Return the folders with more entries than one can look over, as `ls` would list them."""
    ignored = (root / ".gitignore").read_text().split()
    findings, folders = [], [root]
    while folders:
        folder = folders.pop()
        entries = [
            entry
            for entry in folder.iterdir()
            if not entry.name.startswith(".")
            and not any(
                fnmatch(entry.name, pattern) or fnmatch(f"{entry.name}/", pattern)
                for pattern in ignored
            )
            and not (entry.name == "__init__.py" or entry.name == "py.typed")
        ]
        if len(entries) > MOST_ENTRIES:
            findings.append(f"{folder.relative_to(root)}/ has {len(entries)} entries")
        folders += [entry for entry in entries if entry.is_dir()]
    return sorted(findings)


# --- names


def bound_names(tree):
    """Yield (line, name) of everything that a module defines or assigns."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.lineno, node.name
        elif isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id if isinstance(node, ast.Name) else node.attr
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.alias) and node.asname:
            yield node.lineno, node.asname


def wrong_names(root):
    """Return the names of WRONG_NAMES that Python or SQL files define."""
    findings = []
    for path in sorted(path for wing in (*WINGS, "tests") for path in (root / wing).rglob("*.py")):
        here = path.relative_to(root)
        if path.stem in WRONG_NAMES:
            findings.append(f"{here} is named {path.stem}")
        findings += [
            f"{here}:{line} names something {name}"
            for line, name in bound_names(ast.parse(path.read_text()))
            if name in WRONG_NAMES
        ]
    for path in sorted((root / "sql").rglob("*.sql")):
        code = re.sub(r"--.*|'[^']*'", "", path.read_text())
        words = {*re.findall(r"\w+", code), path.stem} & WRONG_NAMES
        findings += [f"{path.relative_to(root)} names something {word}" for word in sorted(words)]
    return findings


def wrong_phrases(root):
    """Return the lines of code, SQL and pages that hold a phrase of WRONG_PHRASES."""
    paths = [
        path
        for folder in (*WINGS, "sql", "docs", "tests")
        for path in (root / folder).rglob("*.*")
        if path.suffix in (".py", ".sql", ".md", ".html") and path.name != Path(__file__).name
    ]
    pattern = re.compile(rf"\b({'|'.join(WRONG_PHRASES)})", re.IGNORECASE)
    return [
        f"{path.relative_to(root)}:{number} says {match[0]!r}"
        for path in sorted([*paths, *root.glob("*.md")])
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if (match := pattern.search(line))
    ]


# --- the checks on this project


def report(findings):
    assert not findings, "\n".join([f"{len(findings)} findings:", *findings])


def test_no_module_imports_in_a_circle():
    report(circles(imports(ROOT)))


def test_no_sub_package_imports_in_a_circle():
    report(circles(rooms(imports(ROOT))))


def test_no_import_runs_up():
    report(climbing_imports(imports(ROOT)))


def test_only_command_lines_import_click():
    report(click_outside_cli(ROOT))


def test_no_module_is_named_like_a_library_or_a_function_of_its_package():
    report(module_names(ROOT))


def test_the_package_names_the_systems_and_pythons_that_it_runs_on():
    """`fcntl` and `grp` are not on Windows, and ONNX Runtime has no wheel for Intel Macs."""
    text = (ROOT / "pyproject.toml").read_text()
    project = tomllib.loads(text)["project"]
    assert "win32" not in text and "AMD64" not in text
    systems = [c for c in project["classifiers"] if c.startswith("Operating System")]
    assert systems == ["Operating System :: MacOS", "Operating System :: POSIX :: Linux"]
    versions = [c.rpartition(" ")[2] for c in project["classifiers"] if "Python :: 3." in c]
    assert project["requires-python"] == f">={versions[0]}" == ">=3.11"
    assert "Linux, or macOS on Apple silicon" in (ROOT / "README.md").read_text()


def test_python_strings_hold_no_long_sql():
    report(long_sql(ROOT))


def test_each_folder_can_be_looked_over():
    report(crowded_folders(ROOT))


def test_names_are_not_on_the_list_of_wrong_names():
    report(wrong_names(ROOT))


def test_pages_and_comments_use_the_terms_of_the_field():
    report(wrong_phrases(ROOT))


# --- the checks on trees that break the rules


def write(root, files):
    """Write files by their path below a root; each folder becomes a package."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        if path.suffix == ".py":
            (path.parent / "__init__.py").touch()
    return root


def test_a_circle_is_reported_also_inside_a_function(tmp_path):
    write(
        tmp_path,
        {
            "batch/a.py": "import batch.b",
            "batch/b.py": "from batch import c",
            "batch/c.py": "def late():\n    from .a import name",
            "batch/typed.py": "if TYPE_CHECKING:\n    import batch.user",
            "batch/user.py": "import batch.typed",
        },
    )
    assert circles(imports(tmp_path)) == ["batch.a -> batch.b -> batch.c -> batch.a"]


def test_a_circle_of_sub_packages_is_reported(tmp_path):
    write(
        tmp_path,
        {
            "batch/scoring/low.py": "",
            "batch/scoring/high.py": "from batch.training import fit",
            "batch/training/fit.py": "from batch.scoring.low import x",
        },
    )
    assert circles(imports(tmp_path)) == []
    between = circles(rooms(imports(tmp_path)))
    assert between == ["batch.scoring -> batch.training -> batch.scoring"]


def test_an_import_that_runs_up_is_reported(tmp_path):
    write(
        tmp_path,
        {
            "featurestore/errors.py": "",
            "featurestore/cohort/flow.py": "def f():\n    import_module('batch.scoring.score')",
            "export/cli.py": "from featurestore.errors import FeatureStoreError",
            "export/tokenizer.py": "from export.cli import require_torch",
            "batch/scoring/score.py": "import export.tokenizer",
            "batch/new_room/job.py": "",
        },
    )
    assert climbing_imports(imports(tmp_path)) == [
        "batch.new_room stands in no layer of test_structure.py",
        "batch.new_room stands in no layer of test_structure.py",
        "export.tokenizer imports export.cli",
        "featurestore.cohort.flow imports batch.scoring.score",
    ]


def test_a_public_name_counts_as_an_import_of_its_module(tmp_path):
    write(
        tmp_path,
        {
            "featurestore/store/store.py": "",
            "featurestore/cohort/flow.py": "from featurestore import Store",
        },
    )
    assert imports(tmp_path)["featurestore.cohort.flow"] == {"featurestore.store.store"}


def test_click_outside_a_command_line_is_reported(tmp_path):
    write(tmp_path, {"batch/cli.py": "import click", "batch/job.py": "from click import echo"})
    assert click_outside_cli(tmp_path) == ["batch.job"]


def test_a_confusing_module_name_is_reported(tmp_path):
    write(tmp_path, {"batch/json.py": "", "batch/duckdb.py": "", "batch/scoring/score.py": ""})
    (tmp_path / "batch/scoring/__init__.py").write_text("from batch.scoring.score import score")
    (tmp_path / "pyproject.toml").write_text(
        '[project]\ndependencies = ["duckdb==1.5.5"]\noptional-dependencies = {}'
    )
    assert module_names(tmp_path) == [
        "batch.duckdb is named like the library duckdb",
        "batch.json is named like the library json",
        "batch.scoring.score is a module and a function",
    ]


@pytest.mark.parametrize(
    "code",
    [
        pytest.param('X = """\nSELECT a\nFROM t\nJOIN u\nWHERE b\n"""', id="triple quotes"),
        pytest.param('X = (\n"SELECT a "\n"FROM t "\n"JOIN u "\n"WHERE b"\n)', id="side by side"),
        pytest.param('X = (\nf"SELECT {a} "\nf"FROM t "\nf"JOIN u "\nf"ON b"\n)', id="f-strings"),
        pytest.param('X = (\n"SELECT a "\n+ "FROM t "\n+ u\n+ "WHERE b"\n)', id="added"),
        pytest.param('X = "SELECT a\\nFROM t\\nJOIN u\\nWHERE b"', id="escaped line ends"),
        pytest.param('X = """WITH t AS (\nSELECT 1\n)\nFROM t"""', id="WITH"),
        pytest.param('X = """INSERT INTO t\nSELECT 1\nFROM u\nWHERE b"""', id="INSERT"),
        pytest.param('f("""CREATE TABLE t AS\nSELECT 1\nFROM u\nWHERE b""")', id="CREATE"),
    ],
)
def test_long_sql_is_reported(code, tmp_path):
    write(tmp_path, {"batch/a.py": code})
    assert len(long_sql(tmp_path)) == 1


@pytest.mark.parametrize(
    "code",
    [
        pytest.param('X = """\nSELECT a\nFROM t\nWHERE b\n"""', id="three lines"),
        pytest.param('"""Run it.\n\nSELECT a\nFROM t\nWHERE b\n"""', id="a docstring"),
        pytest.param('X = (\n"one "\n"two "\n"three "\n"four"\n)', id="prose"),
    ],
)
def test_short_sql_docstrings_and_prose_pass(code, tmp_path):
    write(tmp_path, {"batch/a.py": code})
    assert long_sql(tmp_path) == []


def test_a_crowded_folder_is_reported(tmp_path):
    write(tmp_path, {f"batch/room/m{number}.py": "" for number in range(MOST_ENTRIES)})
    (tmp_path / ".gitignore").write_text("__pycache__/\n*.egg-info/\n")
    (tmp_path / "batch/room/__pycache__").mkdir()
    assert crowded_folders(tmp_path) == []
    write(tmp_path, {"batch/room/one_more.py": ""})
    assert crowded_folders(tmp_path) == [f"batch/room/ has {MOST_ENTRIES + 1} entries"]


def test_a_wrong_name_is_reported(tmp_path):
    write(
        tmp_path,
        {
            "batch/dice.py": "def anew(told): self.held = 1\nclass Judge: pass\nright = x.told",
            "sql/views/scores.sql": "-- asked\nWITH asked AS (FROM t) SELECT 'told' FROM asked",
        },
    )
    assert wrong_names(tmp_path) == [
        "batch/dice.py is named dice",
        "batch/dice.py:1 names something anew",
        "batch/dice.py:2 names something Judge",
        "batch/dice.py:1 names something told",
        "batch/dice.py:1 names something held",
        "sql/views/scores.sql names something asked",
    ]


def test_a_wrong_phrase_is_reported(tmp_path):
    write(tmp_path, {"README.md": "Runs\nThe whole way.", "sql/a.sql": "-- of word pieces"})
    assert wrong_phrases(tmp_path) == [
        "README.md:2 says 'The whole way'",
        "sql/a.sql:1 says 'word piece'",
    ]
