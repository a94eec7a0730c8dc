"""Encoding talks to nobody and leaves nothing behind, and the test would see it if it did."""

import subprocess
import sys

import pytest

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
    del os.environ["ORT_DISABLE_TELEMETRY"]
from batch import OnnxEncoder
assert len(OnnxEncoder(sys.argv[1], device="cpu").encode(["chest pain"]).vectors) == 1
"""
pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="the guard is made for Linux"
)


def run_guarded(script, home, *arguments):
    """Run under the guard, with an empty home, and not as CI, where telemetry rests anyway."""
    home.mkdir()
    finished = subprocess.run(
        [sys.executable, "-c", GUARD + script, *map(str, arguments)],
        cwd=home,
        env={"HOME": str(home), "TMPDIR": str(home)},
        capture_output=True,
        text=True,
        timeout=120,
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
