"""Embedding speed on a CPU against sentence-transformers, FastEmbed and a plain transformers loop.

    python -m tests.benchmarks.peers [--windows 128] [--rounds 2] [--environments DIR]

The same model (a random BERT of Bio_ClinicalBERT's shape), the same texts, the same cores, one run;
prints Markdown. Every text is a slice of a note that is exactly one window, because the other
libraries truncate longer texts; texts are distinct, because ours embeds equal windows once. In
every round each system loads in a process of its own, warms up with two texts, and is timed from
texts to vectors at its default batch size; every second round has the reverse order. The other
libraries are installed with pip into virtual environments, which are reused. Run it on an otherwise
idle machine.
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
GFLOP = 96.6  # BERT-base, a window of 512 tokens


# A system: folder of the models -> a function from texts to vectors. Each imports only its own
# library, because the others are not installed in its environment.


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
    options = {"truncation": True, "max_length": 512, "padding": True, "return_tensors": "pt"}

    def encode(texts):
        vectors = []
        for first in range(0, len(texts), batch_size):
            batch = tokenizer(texts[first : first + batch_size], **options)
            with torch.inference_mode():
                vectors.append(bert(**batch).last_hidden_state[:, 0].numpy())
        return np.concatenate(vectors)

    return encode


LOOP = "plain transformers loop"  # PyTorch in fp32, also the reference of the vectors
SYSTEMS = {  # name: how to load it, the packages whose versions matter
    "ours, fp32": (ours, "onnxruntime-gpu tokenizers"),
    "ours, int8": (lambda folder: ours(folder, "int8"), "onnxruntime-gpu tokenizers"),
    "sentence-transformers": (sentence_transformers, "sentence-transformers transformers torch"),
    "FastEmbed": (fastembed, "fastembed onnxruntime tokenizers"),
    LOOP: (plain_loop, "transformers torch tokenizers"),
}
TARGETS = {"sentence-transformers": (1.25, 2.0), "FastEmbed": (1.6, 2.6), LOOP: (1.6, 2.5)}
INSTALL = {  # torch as in constraints.txt
    "sentence-transformers": ["sentence-transformers", "torch==2.13.0"],
    "FastEmbed": ["fastembed"],
}


def measure(name, folder):
    """Time one system in this process; write its vectors to NAME.npy."""
    load, packages = SYSTEMS[name]
    texts = json.loads((folder / "texts.json").read_text())
    encode = load(folder)
    encode(texts[:2])
    seconds, vectors = timed(lambda: encode(texts))
    np.save(folder / f"{name}.npy", vectors)
    versions = ", ".join(f"{package} {version(package)}" for package in packages.split())
    return {"seconds": seconds, "versions": versions}


def measure_full_windows(folder):
    """Time full windows through ours in fp32, between two measurements of a matrix product."""
    texts = json.loads((folder / "full.json").read_text())
    encode = ours(folder)
    encode(texts[:4])
    before = sgemm()
    seconds = min(timed(lambda: encode(texts))[0] for _ in range(3))
    return {"gflops": len(texts) * GFLOP / seconds, "before": before, "after": sgemm()}


def sgemm():
    """Return the GFLOP/s of a 2048x768x3072 float32 matrix product, the best of 30."""
    rng = np.random.default_rng(0)
    a = rng.standard_normal((2048, 768), np.float32)
    b = rng.standard_normal((768, 3072), np.float32)
    return 2 * 2048 * 768 * 3072 / min(timed(lambda: a @ b)[0] for _ in range(30)) / 1e9


def in_process(python, name, folder):
    """Return the result of a new process of this file, on all cores and without a network."""
    slowing = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")  # would lower the peak
    settings = {name: value for name, value in os.environ.items() if name not in slowing}
    for threads in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        settings[threads] = str(CORES)
    for quiet in ("HF_HUB_OFFLINE", "HF_HUB_DISABLE_PROGRESS_BARS", "ORT_DISABLE_TELEMETRY"):
        settings[quiet] = "1"
    settings["PYTHONPATH"] = str(ROOT)
    command = [python, Path(__file__).resolve(), "--measure", name, folder]
    done = subprocess.run(command, env=settings, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def environment(folder, packages):
    """Return the Python of a virtual environment with the packages; create it if necessary."""
    python = folder / "bin" / "python"
    if not (folder / "installed").exists():
        say(f"installing {' and '.join(packages)} in {folder}")
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=True, stdout=2)
        (folder / "installed").touch()
    return python


def read_notes(folder):
    """Return distinct notes in a fixed random order, and a description of them."""
    file, description = NOTES, "open notes of ../shared/data"
    if not file.is_file():
        from featurestore import write_hospital

        write_hospital(folder / "hospital", patients=100)
        file = folder / "hospital" / "NOTEEVENTS.csv"
        description = "SYNTHETIC notes (the open ones are not at ../shared/data)"
    with file.open(newline="", encoding="utf-8") as rows:
        texts = sorted({row["TEXT"] for row in csv.DictReader(rows)} - {""})
    random.Random(0).shuffle(texts)
    return texts, f"{len(texts):,} {description}"


def make_models(folder, texts):
    """Write the checkpoint, our exports in two precisions, and the full graph for FastEmbed."""
    import torch

    from export.onnx_export.exporter import export

    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)  # of the exporter
    bert, tokenizer = random_bert(folder / "bert", texts)
    tokenizer.save_pretrained(folder / "full")
    for precision in ("fp32", "int8"):
        export(folder / "bert", folder / precision, cleaning="none", precision=precision)
    bert.pooler = None  # the last hidden state is then the only output
    bert.set_attn_implementation("eager")  # the faster graph of the two
    ids = torch.ones((2, 16), dtype=torch.int64)
    shape = {0: torch.export.Dim("windows"), 1: torch.export.Dim("tokens", max=512)}
    inputs = ["input_ids", "attention_mask"]
    torch.onnx.export(
        bert, (ids, torch.ones_like(ids)), folder / "full" / "model.onnx", input_names=inputs,
        output_names=["last_hidden_state"], dynamic_shapes=dict.fromkeys(inputs, shape),
        opset_version=20, dynamo=True, external_data=False, verbose=False,
    )  # fmt: skip
    return len(tokenizer)


def one_window_texts(folder, texts, count):
    """Return slices of the notes with their lengths in tokens, and how many were excluded.

    A slice that begins or ends within a word is excluded: it has other tokens.
    """
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "fp32" / "tokenizer.json"))
    tokenizer.enable_truncation(512)
    lengths, excluded = {}, 0
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
                excluded += 1
            if len(lengths) == count:
                return lengths, excluded
    return lengths, excluded


def cosines(vectors, reference):
    vectors, reference = vectors.astype(np.float64), reference.astype(np.float64)
    norms = np.linalg.norm(vectors, axis=1) * np.linalg.norm(reference, axis=1)
    return (vectors * reference).sum(axis=1) / norms


def print_table(folder, results):
    """Print the comparison; return the fp32 systems that did not embed the same windows."""
    seconds = {name: sorted(each["seconds"] for each in runs) for name, runs in results.items()}
    reference = np.load(folder / f"{LOOP}.npy")
    mean = reference.mean(axis=0)
    different = []
    print(
        "| system | windows/s (slowest) | ours fp32 / it (target) | ours int8 / it (target) |",
        end="",
    )
    print(" min cosine to PyTorch | mean | min, mean-centred |")
    print("|" + " --- |" * 7)
    for name, times in seconds.items():
        vectors = np.load(folder / f"{name}.npy")
        cells = [name, f"{len(vectors) / times[0]:.2f} ({len(vectors) / times[-1]:.2f})"]
        ratios = [times[0] / seconds[f"ours, {precision}"][0] for precision in ("fp32", "int8")]
        for ratio, target in zip(ratios, TARGETS.get(name, (None, None)), strict=True):
            cells.append(f"{ratio:.2f} ({target})" if target else f"{ratio:.2f}")
        plain, centred = cosines(vectors, reference), cosines(vectors - mean, reference - mean)
        cells += [f"{plain.min():.7f}", f"{plain.mean():.7f}", f"{centred.min():.6f}"]
        print(f"| {' | '.join(cells)} |")
        # Any two notes have a cosine above 0.99 in a random BERT. Mean-centred, it detects a single
        # different token.
        if name != "ours, int8" and centred.min() < 0.9999:
            different.append(name)
    return different


def compare(folder, windows, rounds, environments):
    """Make the models and environments, time each system in turn, and print the results."""
    load = os.getloadavg()[0]
    pythons = {
        name: environment(environments / name, packages) for name, packages in INSTALL.items()
    }
    texts, description = read_notes(folder)
    say("making the model and its exports")
    vocabulary = make_models(folder, texts)
    lengths, excluded = one_window_texts(folder, texts, windows)
    full = [text for text, length in lengths.items() if length == 512]
    (folder / "texts.json").write_text(json.dumps(list(lengths)))
    (folder / "full.json").write_text(json.dumps(full[:16]))

    results = {name: [] for name in SYSTEMS}
    for number in range(rounds):
        for name in list(SYSTEMS)[:: -1 if number % 2 else 1]:
            results[name].append(in_process(pythons.get(name, sys.executable), name, folder))
            say(f"round {number + 1}, {name}: {results[name][-1]['seconds']:.1f} s")
    peak = in_process(sys.executable, "full windows", folder)

    print(f"- texts: {description}")
    print(f"- {len(lengths)} windows, {len(full)} of them of 512 tokens, mean length", end=" ")
    print(f"{np.mean(list(lengths.values())):.0f}; {excluded} excluded, cut within a word")
    print(
        f"- random BERT-base; vocabulary of {vocabulary:,} tokens learned from the notes", end="; "
    )
    print(f"rounds: {rounds}\n")
    different = print_table(folder, results)
    fraction = peak["gflops"] / max(peak["before"], peak["after"])
    print(f"\nours, fp32, {len(full[:16])} windows of 512: {peak['gflops']:.0f} GFLOP/s,", end=" ")
    print(
        f"{fraction:.0%} (target 88%) of a 2048x768x3072 sgemm's {peak['before']:.0f} before",
        end=" ",
    )
    print(f"and {peak['after']:.0f} after\n")
    for name in SYSTEMS:
        print(f"- {name}: {results[name][-1]['versions']}")
    print("- batches: ours of 1,024 tokens and sentence-transformers of 32, by length", end="; ")
    print("FastEmbed of 256 and the plain loop of 8, in order")
    print(f"- {CORES} cores, as many threads in each; load {load:.1f} before the run", end="; ")
    print(f"Python {platform.python_version()}")
    if different:
        raise SystemExit(f"not the vectors of the same windows: {', '.join(different)}")


def say(message):
    print(message, file=sys.stderr, flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = Path(tempfile.gettempdir()) / "clinical-featurestore-peers"
    parser.add_argument("--windows", type=int, default=128, help="to embed")
    parser.add_argument("--rounds", type=int, default=2, help="each times every system once")
    parser.add_argument("--environments", type=Path, default=default, help="of the other libraries")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        name, folder = arguments.measure[0], Path(arguments.measure[1])
        result = measure(name, folder) if name in SYSTEMS else measure_full_windows(folder)
        print(json.dumps(result))
        return
    with tempfile.TemporaryDirectory() as folder:
        compare(Path(folder), arguments.windows, arguments.rounds, arguments.environments.resolve())


if __name__ == "__main__":
    main()
