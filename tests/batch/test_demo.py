"""The demo runs end to end and finds the signal of the synthetic notes."""

import re
import shlex

import pytest
from click.testing import CliRunner

from featurestore import Store
from featurestore.cli import main


@pytest.mark.slow
def test_the_demo_finds_the_planted_signal(tmp_path):
    result = CliRunner().invoke(main, ["demo", str(tmp_path / "demo")])
    assert result.exit_code == 0, result.output
    auroc = float(re.search(r"^scorer +(0\.\d+)", result.stdout, re.M)[1])
    assert auroc >= 0.65
    assert re.search(r"^bag of words +0\.\d+", result.stdout, re.M)
    store = Store(tmp_path / "demo" / "ward.duckdb")
    assert store.one("SELECT count(*) > 1000 FROM latest_scores") == (True,)

    _, _, suggestions = result.stdout.partition("What to try next:")
    commands = [line for line in suggestions.splitlines() if line]
    assert len(commands) == 7
    for command in commands:
        result = CliRunner().invoke(main, shlex.split(command)[1:])
        assert result.exit_code == 0, (command, result.output)


def test_an_existing_folder_is_not_changed(tmp_path):
    result = CliRunner().invoke(main, ["demo", str(tmp_path)])
    assert result.exit_code == 1
    assert "exists already - remove it, or name another folder" in result.stderr
    assert list(tmp_path.iterdir()) == []
