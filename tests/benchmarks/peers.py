"""Embedding speed on a CPU beside sentence-transformers, FastEmbed and a plain transformers loop.

    python -m tests.benchmarks.peers [--windows 128] [--rounds 2] [--environments DIR]

The same model (a random BERT of Bio_ClinicalBERT's shape), the same texts, the same cores, one run;
prints Markdown. Every text is a slice of a note that is exactly one window, because the peers cut
off what is longer; no text comes twice, because ours would embed it once. Every system has a
process of its own in every round, loads, warms up with two texts, and is timed from texts to
vectors at its default batch size; the order turns round from one round to the next. The peers live
in virtual environments, made with pip at the first run and kept. Let nothing else run meanwhile.
"""

import argparse
import csv
import json
import logging
import os
import platform
import random
import subprocess
import sys
import tempfile
import warnings
from importlib.metadata import version
from pathlib import Path

import numpy as np

from tests.benchmarks.common import random_bert, timed

ROOT = Path(__file__).resolve().parents[2]
NOTES = ROOT.parent / "shared" / "data" / "mimic-iii-demo" / "NOTEEVENTS.csv"
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
GFLOP = 96.6  # BERT-base, a window of 512 word pieces


# A system: folder of the models -> a function from texts to vectors. Each imports only what it
# measures, for it runs where the others are not installed.


def ours(folder, precision="fp32"):
    from featurestore import OnnxEncoder

    encoder = OnnxEncoder(folder / precision, "cpu", threads=CORES)
    return lambda texts: encoder.encode(texts).vectors


def sentence_transformers(folder):
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    bert = Transformer(str(folder / "bert"), max_seq_length=512)
    model = SentenceTransformer(modules=[bert, Pooling(768, "cls")], device="cpu")
    return lambda texts: model.encode(texts, show_progress_bar=False)


def fastembed(folder):
    from fastembed import TextEmbedding
    from fastembed.common.model_description import ModelSource, PoolingType

    name, nowhere = "local/bert", ModelSource(url="none")
    TextEmbedding.add_custom_model(name, PoolingType.CLS, False, nowhere, 768, "model.onnx")
    model = TextEmbedding(name, threads=CORES, specific_model_path=str(folder / "full"))
    return lambda texts: np.stack(list(model.embed(texts)))


def plain_loop(folder, batch_size=8):
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder / "bert")
    bert = AutoModel.from_pretrained(folder / "bert").eval()
    cut = {"truncation": True, "max_length": 512, "padding": True, "return_tensors": "pt"}

    def encode(texts):
        found = []
        for first in range(0, len(texts), batch_size):
            batch = tokenizer(texts[first : first + batch_size], **cut)
            with torch.inference_mode():
                found.append(bert(**batch).last_hidden_state[:, 0].numpy())
        return np.concatenate(found)

    return encode


LOOP = "plain transformers loop"  # also the reference: PyTorch, fp32
SYSTEMS = {  # name: what loads it, the packages that count
    "ours, fp32": (ours, "onnxruntime-gpu tokenizers"),
    "ours, int8": (lambda folder: ours(folder, "int8"), "onnxruntime-gpu tokenizers"),
    "sentence-transformers": (sentence_transformers, "sentence-transformers transformers torch"),
    "FastEmbed": (fastembed, "fastembed onnxruntime tokenizers"),
    LOOP: (plain_loop, "transformers torch tokenizers"),
}
AIMS = {"sentence-transformers": (1.25, 2.0), "FastEmbed": (1.6, 2.6), LOOP: (1.6, 2.5)}
INSTALL = {  # torch as in constraints.txt
    "sentence-transformers": ["sentence-transformers", "torch==2.13.0"],
    "FastEmbed": ["fastembed"],
}


def measure(name, folder):
    """One system, in this process: its vectors to NAME.npy, the rest of the answer to stdout."""
    load, packages = SYSTEMS[name]
    texts = json.loads((folder / "texts.json").read_text())
    encode = load(folder)
    encode(texts[:2])
    seconds, vectors = timed(lambda: encode(texts))
    np.save(folder / f"{name}.npy", vectors)
    versions = ", ".join(f"{package} {version(package)}" for package in packages.split())
    return {"seconds": seconds, "versions": versions}


def measure_full_windows(folder):
    """Full windows through ours in fp32, between two measurements of a matmul of their shape."""
    texts = json.loads((folder / "full.json").read_text())
    encode = ours(folder)
    encode(texts[:4])
    before = sgemm()
    seconds = min(timed(lambda: encode(texts))[0] for _ in range(3))
    return {"gflops": len(texts) * GFLOP / seconds, "before": before, "after": sgemm()}


def sgemm():
    """GFLOP/s of a 2048x768x3072 float32 matmul: the best of 30."""
    rng = np.random.default_rng(0)
    a = rng.standard_normal((2048, 768), np.float32)
    b = rng.standard_normal((768, 3072), np.float32)
    return 2 * 2048 * 768 * 3072 / min(timed(lambda: a @ b)[0] for _ in range(30)) / 1e9


def in_process(python, name, folder):
    """The answer of a fresh process of this file, on all cores and without a network."""
    pinned = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")  # would make the peak look low
    settings = {name: value for name, value in os.environ.items() if name not in pinned}
    for threads in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        settings[threads] = str(CORES)
    for quiet in ("HF_HUB_OFFLINE", "HF_HUB_DISABLE_PROGRESS_BARS", "ORT_DISABLE_TELEMETRY"):
        settings[quiet] = "1"
    settings["PYTHONPATH"] = str(ROOT)
    command = [python, Path(__file__).resolve(), "--measure", name, folder]
    done = subprocess.run(command, env=settings, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def environment(folder, packages):
    """The Python of a virtual environment that holds the packages; made where it is not."""
    python = folder / "bin" / "python"
    if not (folder / "installed").exists():
        say(f"installing {' and '.join(packages)} in {folder}")
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=True, stdout=2)
        (folder / "installed").touch()
    return python


def read_notes(folder):
    """Different notes in a fixed random order, and what they are."""
    file, what = NOTES, "open notes of ../shared/data"
    if not file.is_file():
        from featurestore import write_hospital

        write_hospital(folder / "hospital", patients=100)
        file = folder / "hospital" / "NOTEEVENTS.csv"
        what = "SYNTHETIC notes (the open ones are not at ../shared/data)"
    with file.open(newline="", encoding="utf-8") as rows:
        texts = sorted({row["TEXT"] for row in csv.DictReader(rows)} - {""})
    random.Random(0).shuffle(texts)
    return texts, f"{len(texts):,} {what}"


def make_models(folder, texts):
    """The checkpoint, ours in two precisions, and the whole graph for FastEmbed."""
    import torch

    from export.onnx_export.exporter import export

    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)  # the exporter's own chatter
    bert, tokenizer = random_bert(folder / "bert", texts)
    tokenizer.save_pretrained(folder / "full")
    for precision in ("fp32", "int8"):
        export(folder / "bert", folder / precision, cleaning="none", precision=precision)
    bert.pooler = None  # so the last hidden state is all that comes out
    bert.set_attn_implementation("eager")  # makes the faster graph of the two
    ids = torch.ones((2, 16), dtype=torch.int64)
    shape = {0: torch.export.Dim("windows"), 1: torch.export.Dim("tokens", max=512)}
    inputs = ["input_ids", "attention_mask"]
    torch.onnx.export(
        bert, (ids, torch.ones_like(ids)), folder / "full" / "model.onnx", input_names=inputs,
        output_names=["last_hidden_state"], dynamic_shapes=dict.fromkeys(inputs, shape),
        opset_version=20, dynamo=True, external_data=False, verbose=False,
    )  # fmt: skip
    return len(tokenizer)


def one_window_texts(folder, texts, wanted):
    """Slices of the notes with their lengths in word pieces, and how many were left out.

    A slice that was cut within a word does not become the same word pieces again.
    """
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "fp32" / "tokenizer.json"))
    tokenizer.enable_truncation(512)
    lengths, left_out = {}, 0
    for text in texts:
        whole = tokenizer.encode(text)
        for window in (whole, *whole.overflowing):
            spans = window.offsets[1:-1]  # without [CLS] and [SEP]
            if not spans:
                continue
            part = text[spans[0][0] : spans[-1][1]]
            again = tokenizer.encode(part)
            if again.ids == window.ids and not again.overflowing:
                lengths[part] = len(again.ids)
            else:
                left_out += 1
            if len(lengths) == wanted:
                return lengths, left_out
    return lengths, left_out


def cosines(vectors, reference):
    vectors, reference = vectors.astype(np.float64), reference.astype(np.float64)
    norms = np.linalg.norm(vectors, axis=1) * np.linalg.norm(reference, axis=1)
    return (vectors * reference).sum(axis=1) / norms


def table(folder, answers):
    """Print the comparison; return the fp32 systems that did not embed the same windows."""
    seconds = {name: sorted(each["seconds"] for each in given) for name, given in answers.items()}
    reference = np.load(folder / f"{LOOP}.npy")
    middle = reference.mean(axis=0)
    strangers = []
    print("| system | windows/s (slowest) | ours fp32 / it (aim) | ours int8 / it (aim) |", end="")
    print(" min cosine to PyTorch | mean | min, less the mean vector |")
    print("|" + " --- |" * 7)
    for name, taken in seconds.items():
        vectors = np.load(folder / f"{name}.npy")
        cells = [name, f"{len(vectors) / taken[0]:.2f} ({len(vectors) / taken[-1]:.2f})"]
        ratios = [taken[0] / seconds[f"ours, {precision}"][0] for precision in ("fp32", "int8")]
        for ratio, aim in zip(ratios, AIMS.get(name, (None, None)), strict=True):
            cells.append(f"{ratio:.2f} ({aim})" if aim else f"{ratio:.2f}")
        plain, centred = cosines(vectors, reference), cosines(vectors - middle, reference - middle)
        cells += [f"{plain.min():.7f}", f"{plain.mean():.7f}", f"{centred.min():.6f}"]
        print(f"| {' | '.join(cells)} |")
        # Any two notes have a cosine above 0.99 in a random BERT. Less the mean vector, one other
        # word piece shows.
        if name != "ours, int8" and centred.min() < 0.9999:
            strangers.append(name)
    return strangers


def compare(folder, wanted, rounds, environments):
    """Make everything, measure in turn, print."""
    load = os.getloadavg()[0]
    pythons = {name: environment(environments / name, what) for name, what in INSTALL.items()}
    texts, whose = read_notes(folder)
    say("making the model and its exports")
    pieces = make_models(folder, texts)
    lengths, left_out = one_window_texts(folder, texts, wanted)
    full = [text for text, length in lengths.items() if length == 512]
    (folder / "texts.json").write_text(json.dumps(list(lengths)))
    (folder / "full.json").write_text(json.dumps(full[:16]))

    answers = {name: [] for name in SYSTEMS}
    for number in range(rounds):
        for name in list(SYSTEMS)[:: -1 if number % 2 else 1]:
            answers[name].append(in_process(pythons.get(name, sys.executable), name, folder))
            say(f"round {number + 1}, {name}: {answers[name][-1]['seconds']:.1f} s")
    share = in_process(sys.executable, "full windows", folder)

    print(f"- texts: {whose}")
    print(f"- {len(lengths)} windows, {len(full)} of them of 512 word pieces, the mean of", end=" ")
    print(f"{np.mean(list(lengths.values())):.0f}; {left_out} left out, cut within a word")
    print(f"- random BERT-base; {pieces:,} word pieces learned from the notes; rounds: {rounds}\n")
    strangers = table(folder, answers)
    part = share["gflops"] / max(share["before"], share["after"])
    print(f"\nours, fp32, {len(full[:16])} windows of 512: {share['gflops']:.0f} GFLOP/s,", end=" ")
    print(f"{part:.0%} (aim 88%) of a 2048x768x3072 sgemm's {share['before']:.0f} before", end=" ")
    print(f"and {share['after']:.0f} after\n")
    for name in SYSTEMS:
        print(f"- {name}: {answers[name][-1]['versions']}")
    print(
        "- batches: ours of 1,024 word pieces and sentence-transformers of 32, by length", end="; "
    )
    print("FastEmbed of 256 and the plain loop of 8, in order")
    print(f"- {CORES} cores, as many threads in each; load {load:.1f} before the run", end="; ")
    print(f"Python {platform.python_version()}")
    if strangers:
        raise SystemExit(f"not the vectors of the same windows: {', '.join(strangers)}")


def say(what):
    print(what, file=sys.stderr, flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    kept = Path(tempfile.gettempdir()) / "clinical-featurestore-peers"
    parser.add_argument("--windows", type=int, default=128, help="to embed")
    parser.add_argument("--rounds", type=int, default=2, help="in which each system is timed once")
    parser.add_argument("--environments", type=Path, default=kept, help="of the peers, kept")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.measure:
        name, folder = chosen.measure[0], Path(chosen.measure[1])
        answer = measure(name, folder) if name in SYSTEMS else measure_full_windows(folder)
        print(json.dumps(answer))
        return
    with tempfile.TemporaryDirectory() as folder:
        compare(Path(folder), chosen.windows, chosen.rounds, chosen.environments.resolve())


if __name__ == "__main__":
    main()
