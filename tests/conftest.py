"""What several tests share: a small BERT and its model folder, made once a session."""

import logging
import os
import random
import sys
import tempfile
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest

WORDS = (
    "patient lives alone with daughter chest pain denies fever heart failure lasix daily clear "
    "lungs stable vitals plan discharge home follow up clinic cough edema weight creatinine rises"
).split()
MIMIC_DEMO = Path(__file__).resolve().parents[2] / "shared" / "data" / "mimic-iii-demo"


def prose(words, seed=0):
    """So many words of something like a note."""
    rng = random.Random(seed)
    return " ".join(rng.choice(WORDS) for _ in range(words))


@pytest.fixture
def write_prose():
    return prose


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """A random BERT of 2 layers x 128, with tokens learned from prose."""
    from batch.demo import write_small_bert

    folder = tmp_path_factory.mktemp("checkpoints") / "small"
    write_small_bert(folder, [prose(200, seed) for seed in range(20)], seed=0)
    return folder


@pytest.fixture(scope="session")
def model(checkpoint, tmp_path_factory):
    """The checkpoint, exported with windows of 64 tokens."""
    from export.onnx_export.exporter import export

    folder = tmp_path_factory.mktemp("models") / "small"
    export(checkpoint, folder, max_tokens=64)
    return folder


@pytest.fixture(scope="session")
def bf16_model(checkpoint, tmp_path_factory):
    """The same in bf16, which OpenVINO runs."""
    from export.cpu import cpu_features
    from export.onnx_export.exporter import export

    if "bf16" not in cpu_features():
        pytest.skip("this CPU has no bfloat16 instructions")
    folder = tmp_path_factory.mktemp("models") / "bf16"
    export(checkpoint, folder, "small", max_tokens=64, precision="bf16")
    return folder


class WordCounter:
    """An encoder whose vectors can be checked by eye: 1 + how often each of four words stands.

    Its windows are four words long, between a 0 and a 1 as between [CLS] and [SEP].
    """

    COUNTED = ("alone", "pain", "home", "canary")
    provider = "counting"
    budget = 1_024
    classifier_head = None

    def __init__(self, encoder_id="counter-00000000", dim=4):
        self.id = encoder_id
        self.dim = dim
        self.texts_seen = []
        self.manifest = {
            "name": "counter",
            "fingerprint": "0" * 64,
            "dim": dim,
            "precision": "fp32",
            "max_tokens": 6,
            "stride": 0,
        }

    def tokenize(self, texts):
        self.texts_seen += texts
        return [
            [
                np.array([0, *(self._number(word) for word in words[at : at + 4]), 1], np.int32)
                for at in range(0, len(words), 4)
            ]
            for words in (text.split() for text in texts)
        ]

    def run(self, batch):
        counts = [[1.0 + np.sum(ids == no) for no in range(2, 6)] for ids in batch]
        return np.array(counts, np.float32)[:, : self.dim]

    def _number(self, word):
        return self.COUNTED.index(word) + 2 if word in self.COUNTED else 6


@pytest.fixture
def counter():
    return WordCounter


@pytest.fixture(scope="session")
def server():
    """A PostgreSQL."""
    # Not under pytest's own folder: as root, PostgreSQL runs as a user who may not enter that.
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pgserver

        server = pgserver.get_server(folder)
        yield server
        server.cleanup()


@pytest.fixture(scope="session")
def mimic_demo():
    """The folder of the MIMIC-III demo, or a reason to skip."""
    if not (MIMIC_DEMO / "ADMISSIONS.csv").is_file():
        pytest.skip("the MIMIC-III demo is not at ../shared/data/mimic-iii-demo")
    return MIMIC_DEMO


@pytest.fixture(scope="session", autouse=True)
def _before_commands():
    """The umask and who writes to stderr, before a command of any fixture changes them."""
    hooks = ((sys, "excepthook"), (sys, "unraisablehook"), (threading, "excepthook"))
    umask = os.umask(0o022)
    os.umask(umask)
    return umask, [(*hook, getattr(*hook)) for hook in (*hooks, (warnings, "showwarning"))]


@pytest.fixture(autouse=True)
def _keep_process(_before_commands):
    """Commands set the umask of their process, and hide what it says; tests share one."""
    yield
    umask, told_by = _before_commands
    os.umask(umask)
    for where, name, was in told_by:
        setattr(where, name, was)
    logging.setLogRecordFactory(logging.LogRecord)
    logging.disable(logging.NOTSET)
