"""The demo: one command from nothing to scores, and the signal is there."""

import re
import shlex

from click.testing import CliRunner

from featurestore import Store
from featurestore.cli.group import main


def test_the_whole_way_finds_the_planted_signal(tmp_path):
    result = CliRunner().invoke(main, ["demo", str(tmp_path / "demo")])
    assert result.exit_code == 0, result.output
    auroc = float(re.search(r"^scorer +(0\.\d+)", result.stdout, re.M)[1])
    assert auroc >= 0.65
    assert re.search(r"^bag of words +0\.\d+", result.stdout, re.M)
    store = Store(tmp_path / "demo" / "ward.duckdb")
    assert store.one("SELECT count(*) > 1000 FROM latest_scores") == (True,)

    _, _, then = result.stdout.partition("What to try next:")
    following = [line for line in then.splitlines() if line]
    assert len(following) == 7
    for line in following:
        again = CliRunner().invoke(main, shlex.split(line)[1:])
        assert again.exit_code == 0, (line, again.output)


def test_an_existing_folder_is_left_alone(tmp_path):
    result = CliRunner().invoke(main, ["demo", str(tmp_path)])
    assert result.exit_code == 1
    assert "exists already - remove it, or name another folder" in result.stderr
    assert list(tmp_path.iterdir()) == []
