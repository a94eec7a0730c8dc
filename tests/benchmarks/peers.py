"""Speed and fidelity of embeddings on a CPU: ours, PyTorch, sentence-transformers, FastEmbed.

    python -m tests.benchmarks.peers [--windows 128] [--rounds 2] [--plot FILE]
    python -m tests.benchmarks.peers --modernbert 2048 --windows 16

The same model (a random BERT of Bio_ClinicalBERT's shape), the same texts, the same cores, one run;
prints Markdown. Every text is a slice of a note that is exactly one window, because the other
libraries truncate longer texts; texts are distinct, because ours embeds equal windows once. In
every round each system loads in a process of its own, warms up with two texts, and is timed from
texts to vectors at its default batch size; every second round has the reverse order. The other
libraries are installed with pip into virtual environments, which are reused. With --modernbert the
model is a random one of ModernBERT-base's shape, every window is full, and the others are PyTorch.
Needs Linux; run it on an otherwise idle machine.
"""

import argparse
import csv
import json
import logging
import os
import platform
import random
import shutil
import subprocess
import sys
import tempfile
import warnings
from importlib.metadata import version
from pathlib import Path

import numpy as np

from export.cpu import available_cores, cpu_features, cpu_name
from tests.benchmarks.common import random_bert, random_modernbert, timed

ROOT = Path(__file__).resolve().parents[2]
NOTES = ROOT.parent / "shared" / "data" / "mimic-iii-demo" / "NOTEEVENTS.csv"
CORES = available_cores()
GFLOP = 96.6  # BERT-base, a window of 512 tokens
ONNX_INT8 = "model_int8.onnx"


# How a system loads: from the folder of the models to a function from texts to vectors. Each
# imports only its own library, because the others are not installed in its environment.


def ours(folder, precision):
    from featurestore import OnnxEncoder

    encoder = OnnxEncoder(folder / precision, "cpu", threads=CORES)
    return lambda texts: encoder.encode_windows(texts).vectors


def pytorch(folder, bf16=False, batch_size=8):
    """Return a plain loop over batches: fp32 in order, or bf16 sorted by length."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder / "checkpoint")
    model = AutoModel.from_pretrained(folder / "checkpoint").eval()
    if bf16:
        model = model.to(torch.bfloat16)

    def encode(texts):
        order = sorted(range(len(texts)), key=lambda no: len(texts[no]) if bf16 else no)
        vectors = np.empty((len(texts), model.config.hidden_size), np.float32)
        for first in range(0, len(texts), batch_size):
            chosen = order[first : first + batch_size]
            batch = [texts[no] for no in chosen]
            inputs = tokenizer(batch, truncation=True, padding=True, return_tensors="pt")
            with torch.inference_mode():
                vectors[chosen] = model(**inputs).last_hidden_state[:, 0].float().numpy()
        return vectors

    return encode


def sentence_transformers(folder, backend="torch", **options):
    from sentence_transformers import SentenceTransformer

    path = str(folder / f"sentence-{backend}")
    model = SentenceTransformer(path, backend=backend, device="cpu", model_kwargs=options)
    return lambda texts: model.encode(texts, show_progress_bar=False)


def fastembed(folder):
    from fastembed import TextEmbedding
    from fastembed.common.model_description import ModelSource, PoolingType

    name, nowhere = "local/bert", ModelSource(url="none")
    TextEmbedding.add_custom_model(name, PoolingType.CLS, False, nowhere, 768, "model.onnx")
    model = TextEmbedding(name, threads=CORES, specific_model_path=str(folder / "full"))
    return lambda texts: np.stack(list(model.embed(texts)))


LOOP, LOOP_BF16 = "PyTorch fp32", "PyTorch bf16, sorted"  # the vectors of LOOP are the reference
ST, ST_OPENVINO = "sentence-transformers", "sentence-transformers, OpenVINO"
SYSTEMS = {  # name: how to load it, the packages whose versions matter
    "ours fp32": (lambda folder: ours(folder, "fp32"), "onnxruntime-gpu"),
    "ours bf16": (lambda folder: ours(folder, "bf16"), "openvino"),
    "ours int8": (lambda folder: ours(folder, "int8"), "openvino"),
    LOOP: (pytorch, "torch transformers"),
    LOOP_BF16: (lambda folder: pytorch(folder, bf16=True), "torch transformers"),
    ST: (sentence_transformers, "sentence-transformers torch transformers"),
    f"{ST}, ONNX": (
        lambda folder: sentence_transformers(folder, "onnx"),
        "sentence-transformers onnxruntime optimum-onnx transformers",
    ),
    f"{ST}, ONNX int8": (
        lambda folder: sentence_transformers(folder, "onnx", file_name=ONNX_INT8),
        "sentence-transformers onnxruntime optimum-onnx transformers",
    ),
    ST_OPENVINO: (
        lambda folder: sentence_transformers(folder, "openvino"),
        "sentence-transformers openvino optimum-intel transformers",
    ),
    "FastEmbed": (fastembed, "fastembed onnxruntime"),
}
OURS = [name for name in SYSTEMS if name.startswith("ours")]
FP32 = ["ours fp32", LOOP, ST, f"{ST}, ONNX", "FastEmbed"]
NEEDS = {"ours bf16": "bf16", LOOP_BF16: "bf16", "ours int8": "int8"}  # of the CPU
TARGETS = {
    ("ours bf16", LOOP_BF16): 1.3,
    ("ours bf16", ST_OPENVINO): 1.1,
    ("ours bf16", "ours fp32"): 1.9,
    ("ours fp32", ST): 1.25,
    ("ours fp32", "FastEmbed"): 1.6,
    ("ours fp32", LOOP): 1.6,
}
ENVIRONMENTS = {  # one for each backend: they exclude each other's version of transformers
    "torch": [ST, "torch==2.13.0"],  # as in constraints.txt
    "onnx": [f"{ST}[onnx]", "torch==2.13.0"],
    "openvino": [f"{ST}[openvino]", "torch==2.13.0"],
    "fastembed": ["fastembed"],
}
ENVIRONMENT_OF = {
    ST: "torch",
    f"{ST}, ONNX": "onnx",
    f"{ST}, ONNX int8": "onnx",
    ST_OPENVINO: "openvino",
    "FastEmbed": "fastembed",
}


def measure(name, folder):
    """Time one system in this process; write its vectors to NAME.npy."""
    load, packages = SYSTEMS[name]
    texts = json.loads((folder / "texts.json").read_text())
    load_seconds, encode = timed(lambda: load(folder))
    encode(texts[:2])
    seconds, vectors = timed(lambda: encode(texts))
    np.save(folder / f"{name}.npy", vectors)
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {
        "seconds": seconds,
        "load": load_seconds,
        "megabytes": int(status["VmHWM"].split()[0]) / 1000,  # the peak
        "threads": int(status["Threads"]),
        "versions": ", ".join(f"{package} {version(package)}" for package in packages.split()),
    }


def convert(backend, folder):
    """Write sentence-transformers' model of another backend; return what it computes in."""
    from sentence_transformers import SentenceTransformer

    source, target = str(folder / "sentence-torch"), str(folder / f"sentence-{backend}")
    model = SentenceTransformer(source, backend=backend, device="cpu")
    model.save_pretrained(target)
    if backend == "openvino":
        compiled = model[0].auto_model.request
        return {"computes in": compiled.get_property("INFERENCE_PRECISION_HINT").to_string()}
    from sentence_transformers import export_dynamic_quantized_onnx_model

    # As the documentation of sentence-transformers recommends for CPUs with and without VNNI.
    configuration = "avx512_vnni" if "avx512_vnni" in cpu_flags() else "avx2"
    export_dynamic_quantized_onnx_model(model, configuration, target, file_suffix="int8")
    return {"int8 configuration": configuration}


def measure_full_windows(folder):
    """Time full windows through ours in fp32, between two measurements of a matrix product."""
    texts = json.loads((folder / "full.json").read_text())
    encode = ours(folder, "fp32")
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


def in_process(python, *arguments):
    """Return the result of a new process of this file, on all cores and without a network."""
    slowing = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")  # would lower the peak
    settings = {name: value for name, value in os.environ.items() if name not in slowing}
    for threads in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        settings[threads] = str(CORES)
    for quiet in ("HF_HUB_OFFLINE", "HF_HUB_DISABLE_PROGRESS_BARS", "ORT_DISABLE_TELEMETRY"):
        settings[quiet] = "1"
    settings["PYTHONPATH"] = str(ROOT)
    command = [python, Path(__file__).resolve(), "--run", *arguments]
    done = subprocess.run(command, env=settings, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def environment(folder, packages):
    """Return the Python of a virtual environment with the packages; create it if necessary."""
    python = folder / "bin" / "python"
    if not (folder / "installed").exists():
        say(f"installing {' and '.join(packages)} in {folder}")
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=True, stdout=2)
        # Of PyPI, for CUDA; optimum-intel depends on it, and transformers fails where torch is not.
        remove = ["uninstall", "--quiet", "--yes", "torchvision"]
        subprocess.run([python, "-m", "pip", *remove], check=True, stdout=2)
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


def make_models(folder, texts, tokens, modernbert):
    """Write the checkpoint and our exports of it."""
    from export.onnx_export.exporter import export

    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)  # of the exporter
    make = random_modernbert if modernbert else random_bert
    model, tokenizer = make(folder / "checkpoint", texts)
    for name in OURS[:2] if modernbert else OURS:
        precision = name.split()[1]
        if NEEDS.get(name) in (None, *cpu_features()):
            export(
                folder / "checkpoint", folder / precision, cleaning="none", precision=precision,
                max_tokens=tokens, pooling="cls",
            )  # fmt: skip
    return model, tokenizer


def make_models_of_others(folder, bert, tokenizer, pythons):
    """Write the models of FastEmbed and sentence-transformers; return what the backends chose."""
    import torch

    tokenizer.save_pretrained(folder / "full")
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
    source = folder / "sentence-torch"
    shutil.copytree(folder / "checkpoint", source)
    # The name of the class that transformers 4, on which the ONNX backend depends, knows as well.
    settings = json.loads((source / "tokenizer_config.json").read_text())
    settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    (source / "tokenizer_config.json").write_text(json.dumps(settings))
    modules = [("", "Transformer"), ("1_Pooling", "Pooling")]
    (source / "modules.json").write_text(json.dumps([
        {"idx": no, "name": str(no), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for no, (path, kind) in enumerate(modules)
    ]))  # fmt: skip
    pooling = {"word_embedding_dimension": 768, "pooling_mode_cls_token": True}
    pooling["pooling_mode_mean_tokens"] = False
    (source / "1_Pooling").mkdir()
    (source / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    (source / "sentence_bert_config.json").write_text('{"max_seq_length": 512}')
    return {
        f"{ST}, {backend}": in_process(pythons[backend], "convert", backend, folder)
        for backend in ("onnx", "openvino")
    }


def one_window_texts(folder, texts, count, tokens, only_full):
    """Return slices of the notes with their lengths in tokens, and how many were excluded.

    A slice that begins or ends within a word is excluded: it has other tokens.
    """
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "fp32" / "tokenizer.json"))
    tokenizer.enable_truncation(tokens)
    lengths, excluded = {}, 0
    for text in texts:
        whole = tokenizer.encode(text)
        for window in (whole, *whole.overflowing):
            spans = window.offsets[1:-1]  # without [CLS] and [SEP]
            if not spans or (only_full and len(window.ids) < tokens):
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


def summarize(folder, results):
    """Return windows/s, the smallest cosines to LOOP, and the best of the rest for each system."""
    reference = np.load(folder / f"{LOOP}.npy")
    mean = reference.mean(axis=0)
    summary = {}
    for name, runs in results.items():
        vectors = np.load(folder / f"{name}.npy")
        summary[name] = {
            "speed": len(vectors) / min(run["seconds"] for run in runs),
            "slowest": len(vectors) / max(run["seconds"] for run in runs),
            "cosine": cosines(vectors, reference).min(),
            # Any two notes have a cosine above 0.99 in a random BERT. Mean-centred, it detects a
            # single different token.
            "centred": cosines(vectors - mean, reference - mean).min(),
            **{key: min(run[key] for run in runs) for key in ("load", "megabytes", "threads")},
        }
    return summary


def print_table(summary):
    ours_here = [name for name in OURS if name in summary]
    titles = ["system", "windows/s (slowest)", "min cosine", "min, mean-centred"]
    titles += [f"{name} / it" for name in ours_here]
    print("|", " | ".join([*titles, "load", "peak memory", "threads"]), "|")
    print("|" + " --- |" * (len(titles) + 3))
    for name, row in summary.items():
        cells = [name, f"{row['speed']:.2f} ({row['slowest']:.2f})"]
        cells += [f"{row['cosine']:.7f}", f"{row['centred']:.5f}"]
        cells += [f"{summary[one]['speed'] / row['speed']:.2f}" for one in ours_here]
        cells += [f"{row['load']:.1f} s", f"{row['megabytes']:,.0f} MB", str(row["threads"])]
        print(f"| {' | '.join(cells)} |")


def print_targets(summary):
    for (one, other), target in TARGETS.items():
        if one in summary and other in summary:
            ratio = summary[one]["speed"] / summary[other]["speed"]
            met = "" if ratio >= target else ", MISSED"
            print(f"- {one} / {other}: {ratio:.2f} (target {target}{met})")


def draw(file, summary):
    """Plot speed against the smallest mean-centred cosine, ours in one colour and connected."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot as plt

    mpl.rcParams.update({"svg.hashsalt": "peers", "svg.fonttype": "none", "font.size": 10})
    figure, axes = plt.subplots(figsize=(8, 4), layout="constrained")
    frontier = [(row["speed"], row["centred"]) for name, row in summary.items() if name in OURS]
    axes.plot(*zip(*frontier, strict=True), color="#c2410c", linewidth=1, zorder=1)
    for marker, (name, row) in zip("oDsv^<>PXp", summary.items(), strict=False):
        colour = "#c2410c" if name in OURS else "#475569"
        label = f"{name}: {row['speed']:.2f}, {row['centred']:.3f}"
        axes.scatter(row["speed"], row["centred"], 60, colour, marker, label=label, zorder=2)
    axes.set_xlabel("windows/s")
    axes.set_ylabel("smallest mean-centred cosine to PyTorch fp32")
    axes.set_xlim(left=0)
    axes.set_title(f"{cpu_name()}; {CORES} cores", fontsize=10)
    axes.grid(color="#e2e8f0")
    axes.set_axisbelow(True)
    figure.legend(loc="outside right upper", frameon=False)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, metadata={"Date": None})


def compare(folder, windows, rounds, environments, modernbert, plot):
    """Make the models and environments, time each system in turn, and print the results."""
    load = os.getloadavg()[0]
    tokens = modernbert or 512
    names = [name for name in SYSTEMS if NEEDS.get(name) in (None, *cpu_features())]
    pythons, choices = {}, {}
    if modernbert:
        names = [name for name in names if name in (*OURS[:2], LOOP, LOOP_BF16)]
    else:
        pythons = {key: environment(environments / key, ENVIRONMENTS[key]) for key in ENVIRONMENTS}
    texts, description = read_notes(folder)
    say("making the model and its exports")
    model, tokenizer = make_models(folder, texts, tokens, modernbert)
    if modernbert:
        texts = ["\n".join(texts[:500])]  # most notes have fewer tokens than a window
    else:
        choices = make_models_of_others(folder, model, tokenizer, pythons)
    lengths, excluded = one_window_texts(folder, texts, windows, tokens, bool(modernbert))
    full = [text for text, length in lengths.items() if length == tokens]
    (folder / "texts.json").write_text(json.dumps(list(lengths)))
    (folder / "full.json").write_text(json.dumps(full[:16]))

    results = {name: [] for name in names}
    for number in range(rounds):
        for name in names[:: -1 if number % 2 else 1]:
            python = pythons.get(ENVIRONMENT_OF.get(name), sys.executable)
            results[name].append(in_process(python, "measure", name, folder))
            say(f"round {number + 1}, {name}: {results[name][-1]['seconds']:.1f} s")

    kind = "ModernBERT-base" if modernbert else "BERT-base"
    print(f"- CPU: {cpu_name()}; {CORES} cores, flags {' '.join(vector_flags())}")
    print(f"- load {load:.1f} before the run; Python {platform.python_version()}; rounds: {rounds}")
    print(f"- texts: {description}")
    print(f"- {len(lengths)} windows, {len(full)} of them of {tokens} tokens, mean length", end=" ")
    print(f"{np.mean(list(lengths.values())):.0f}; {excluded} excluded, cut within a word")
    print(f"- random {kind}; vocabulary of {len(tokenizer):,} tokens learned from the notes\n")
    summary = summarize(folder, results)
    print_table(summary)
    if plot:
        draw(plot, summary)
    print()
    if not modernbert:
        print_targets(summary)
        peak = in_process(sys.executable, "measure_full_windows", folder)
        fraction = peak["gflops"] / max(peak["before"], peak["after"])
        print(f"- ours fp32, {len(full[:16])} windows of 512: {peak['gflops']:.0f} GFLOP/s", end="")
        print(f", {fraction:.0%} (target 88%) of a 2048x768x3072 sgemm's", end=" ")
        print(f"{peak['before']:.0f} before and {peak['after']:.0f} after\n")
    for name in names:
        print(f"- {name}: {results[name][-1]['versions']}")
    for name, choice in choices.items():
        print(f"- {name}: {choice}")
    print("- batches: ours of 1,024 tokens or one window, PyTorch of 8 windows", end="; ")
    print("by default sentence-transformers of 32, by length, and FastEmbed of 256, in order")
    different = [name for name in names if name in FP32 and summary[name]["centred"] < 0.9999]
    if different:
        raise SystemExit(f"not the vectors of the same windows: {', '.join(different)}")


def cpu_flags():
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split()[2:] for line in lines if line.startswith("flags")), [])


def vector_flags():
    return sorted(flag for flag in cpu_flags() if flag.startswith(("avx", "amx")))


def say(message):
    print(message, file=sys.stderr, flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = Path(tempfile.gettempdir()) / "clinical-featurestore-peers"
    parser.add_argument("--windows", type=int, default=128, help="to embed")
    parser.add_argument("--rounds", type=int, default=2, help="each times every system once")
    parser.add_argument("--modernbert", type=int, metavar="TOKENS", help="instead of BERT")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="speed and fidelity, as SVG")
    parser.add_argument("--environments", type=Path, default=default, help="of the other libraries")
    parser.add_argument("--run", nargs="+", help=argparse.SUPPRESS)  # a function in this process
    arguments = parser.parse_args()
    if arguments.run:
        function, *parameters, folder = arguments.run
        print(json.dumps(globals()[function](*parameters, Path(folder))))
        return
    with tempfile.TemporaryDirectory() as folder:
        compare(
            Path(folder), arguments.windows, arguments.rounds, arguments.environments.resolve(),
            arguments.modernbert, arguments.plot,
        )  # fmt: skip


if __name__ == "__main__":
    main()
