"""No network access and no files left behind, with controls that show the tests would see them."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
# Kills the process at its first internet socket, native threads included: a filter of system calls
# (seccomp), with the offsets and numbers of x86-64 Linux.
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
assert len(OnnxEncoder(sys.argv[1], device="cpu").encode_windows(["chest pain"]).vectors) == 1
"""
PIPELINE = """
import json, sys
from featurestore.cli import main
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
    not sys.platform.startswith("linux"), reason="the guard needs Linux"
)


def run_guarded(script, home, *arguments, within=(), cwd=None, **environment):
    """Run under the guard, with an empty home, and not as CI, where telemetry is off anyway."""
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


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_encoding_opens_no_socket_and_writes_nothing(precision, request, tmp_path):
    model = request.getfixturevalue("model" if precision == "fp32" else "bf16_model")
    before = sorted(path.name for path in model.iterdir())
    finished, left = run_guarded(ENCODE, tmp_path / "home", model)
    assert (finished.returncode, finished.stderr, left) == (0, "", [])
    assert sorted(path.name for path in model.iterdir()) == before


def test_telemetry_without_the_switch_is_detected(model, tmp_path):
    _, left = run_guarded(ENCODE, tmp_path / "home", model, "talkative")
    assert any("onnxruntime" in path for path in left)


@pytest.mark.parametrize("talkative", [False, True])
def test_openvino_reports_nothing_after_a_model_was_loaded(bf16_model, tmp_path, talkative):
    # Its converter is what reports; we never call it.
    load = "import featurestore\nfeaturestore.OnnxEncoder(sys.argv[1])\n" * (not talkative)
    convert = "import openvino\nopenvino.convert_model(sys.argv[1] + '/model.onnx')\n"
    finished, left = run_guarded(f"import sys\n{load}{convert}", tmp_path / "home", bf16_model)
    assert (finished.returncode == 0 and left == []) is not talkative


@pytest.mark.parametrize("family", ["AF_INET", "AF_INET6"])
def test_the_guard_detects_a_socket(tmp_path, family):
    finished, _ = run_guarded(f"import socket; socket.socket(socket.{family})", tmp_path / "home")
    assert finished.returncode == -31  # SIGSYS


def without_network():
    """Return the command prefix that runs a program without a network, or skip."""
    prefix = ["unshare", "--map-root-user", "--net"]
    if (
        not shutil.which(prefix[0])
        or subprocess.run([*prefix, "true"], capture_output=True).returncode
    ):
        pytest.skip("this machine does not allow network namespaces (unshare -rn)")
    return prefix


@pytest.mark.slow
def test_the_pipeline_needs_no_network_and_leaves_nothing_in_the_home_folder(checkpoint, tmp_path):
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
    """Return what a script prints in a process with this environment."""
    return subprocess.run(
        [sys.executable, "-c", script],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **environment},
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()


def test_environment_variables_of_the_user_cannot_enable_telemetry():
    script = "import featurestore, os, json; print(json.dumps({n: os.environ[n] for n in %r}))"
    contrary = {name: "1" if value == "0" else "0" for name, value in SWITCHES.items()}
    assert json.loads(child(script % [*SWITCHES], **contrary)) == SWITCHES


@pytest.mark.parametrize(
    ("switch", "disabled"),
    [("HF_HUB_DISABLE_TELEMETRY", True), ("DO_NOT_TRACK", True), (None, False)],
)
def test_each_switch_of_huggingface_hub_disables_its_telemetry_alone(switch, disabled):
    script = f"""
import os, featurestore
for name in {[*SWITCHES]!r}:
    if name != {switch!r}:
        os.environ.pop(name, None)
from huggingface_hub import constants
print(constants.HF_HUB_DISABLE_TELEMETRY)
"""
    assert child(script) == str(disabled)


def test_importing_any_package_sets_every_switch():
    for wing in ("featurestore", "batch", "export", "featurestore.cli"):
        script = f"import {wing}, os; print(*(os.environ[name] for name in {[*SWITCHES]!r}))"
        assert child(script).split() == list(SWITCHES.values())


def test_the_switch_of_ray_disables_its_usage_statistics():
    script = """
import featurestore
from ray._common.usage.usage_lib import usage_stats_enabled
print(usage_stats_enabled())
"""
    assert child(script) == "False"
