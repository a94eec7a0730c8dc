"""Nothing talks to anybody or leaves anything behind, and the tests would see it if it did."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
# A process that is killed at its first internet socket, native threads included: a filter of
# system calls (seccomp), with the offsets and numbers of x86-64 Linux.
GUARD = """
import ctypes, struct
libc = ctypes.CDLL(None, use_errno=True)
LOAD, EQUAL, RETURN = 0x20, 0x15, 0x06
KILL, ALLOW = 0x80000000, 0x7FFF0000
steps = [
    (LOAD, 0, 0, 0),            # the number of the call
    (EQUAL, 0, 4, 41),          # socket, or let it pass
    (LOAD, 0, 0, 16),           # its family
    (EQUAL, 1, 0, 2),           # AF_INET
    (EQUAL, 0, 1, 10),          # AF_INET6
    (RETURN, 0, 0, KILL),
    (RETURN, 0, 0, ALLOW),
]
code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
program = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(steps), ctypes.addressof(code)))
assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, program, 0, 0) == 0
"""
ENCODE = """
import os, sys
import featurestore
if "talkative" in sys.argv:
    os.environ.pop("ORT_DISABLE_TELEMETRY", None)
from featurestore import OnnxEncoder
assert len(OnnxEncoder(sys.argv[1], device="cpu").encode(["chest pain"]).vectors) == 1
"""
PIPELINE = """
import json, sys
from featurestore.cli.group import main
for words in json.loads(sys.argv[1]):
    try:
        main(words)
    except SystemExit as end:
        assert end.code == 0, (words, end.code)
"""
SWITCHES = {
    "ORT_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
}
pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="the guard is made for Linux"
)


def run_guarded(script, home, *arguments, within=(), cwd=None, **environment):
    """Run under the guard, with an empty home, and not as CI, where telemetry rests anyway."""
    home.mkdir()
    finished = subprocess.run(
        [*within, sys.executable, "-c", GUARD + script, *map(str, arguments)],
        cwd=cwd or home,
        env={"HOME": str(home), "TMPDIR": str(home), "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )
    left = sorted(str(path.relative_to(home)) for path in home.rglob("*"))
    return finished, left


def test_encoding_opens_no_socket_and_writes_nothing(model, tmp_path):
    before = sorted(path.name for path in model.iterdir())
    finished, left = run_guarded(ENCODE, tmp_path / "home", model)
    assert (finished.returncode, finished.stderr, left) == (0, "", [])
    assert sorted(path.name for path in model.iterdir()) == before


def test_without_the_switch_it_would_be_seen(model, tmp_path):
    _, left = run_guarded(ENCODE, tmp_path / "home", model, "talkative")
    assert any("onnxruntime" in path for path in left)


@pytest.mark.parametrize("family", ["AF_INET", "AF_INET6"])
def test_the_guard_sees_a_socket(tmp_path, family):
    finished, _ = run_guarded(f"import socket; socket.socket(socket.{family})", tmp_path / "home")
    assert finished.returncode == -31  # SIGSYS


def without_network():
    """The words that run a program where there is no network, or a reason to skip."""
    words = ["unshare", "--map-root-user", "--net"]
    if (
        not shutil.which(words[0])
        or subprocess.run([*words, "true"], capture_output=True).returncode
    ):
        pytest.skip("this machine lets nobody make a network namespace (unshare -rn)")
    return words


def test_the_whole_way_needs_no_network_and_leaves_nothing_at_home(checkpoint, tmp_path):
    store, small = "ward.duckdb", ["--epochs", "0.2", "--batch-size", "16", "--max-tokens", "32"]
    plan = [
        ["synth", "hospital", "--patients", "60"],
        ["init", store, "--source", "hospital", "--schema", "mimic3"],
        ["sync", store],
        ["labels", store],
        ["finetune", store, "checkpoint", "--base", str(checkpoint), *small],
        ["export", "checkpoint", "model"],
        ["embed", store, "model", "--device", "cpu", "--category", "Physician"],
        ["train", store, "readmit"],
        ["score", store, "readmit", "-o", "scores.csv"],
        ["report", store, "readmit", "-o", "report.html"],
        ["nightly", store, "model", "readmit", "--device", "cpu", "--force"],
    ]
    (tmp_path / "work").mkdir()
    finished, left = run_guarded(
        PIPELINE,
        tmp_path / "home",
        json.dumps(plan),
        within=without_network(),
        cwd=tmp_path / "work",
        OMP_NUM_THREADS="1",
        OPENBLAS_NUM_THREADS="1",
    )
    assert finished.returncode == 0, finished.stderr[-3_000:]
    assert left == []
    assert (tmp_path / "work" / "report.html").is_file()


def child(script, **environment):
    """What a script prints in a process with this environment."""
    return subprocess.run(
        [sys.executable, "-c", script],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **environment},
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()


def test_a_users_own_setting_does_not_let_a_library_call_home():
    asked = "import featurestore, os, json; print(json.dumps({n: os.environ[n] for n in %r}))"
    contrary = {name: "1" if value == "0" else "0" for name, value in SWITCHES.items()}
    assert json.loads(child(asked % [*SWITCHES], **contrary)) == SWITCHES


@pytest.mark.parametrize(
    ("kept", "rests"),
    [("HF_HUB_DISABLE_TELEMETRY", True), ("DO_NOT_TRACK", True), (None, False)],
)
def test_each_switch_of_the_hub_does_it_alone(kept, rests):
    script = f"""
import os, featurestore
for name in {[*SWITCHES]!r}:
    if name != {kept!r}:
        os.environ.pop(name, None)
from huggingface_hub import constants
print(constants.HF_HUB_DISABLE_TELEMETRY)
"""
    assert child(script) == str(rests)


def test_each_switch_is_there_when_any_wing_is_imported():
    # Ray's is believed: it is no part of an installation, and reads it when it starts.
    for wing in ("featurestore", "batch", "export", "featurestore.cli"):
        asked = f"import {wing}, os; print(*(os.environ[name] for name in {[*SWITCHES]!r}))"
        assert child(asked).split() == list(SWITCHES.values())
