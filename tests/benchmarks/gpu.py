"""Embedding speed on an NVIDIA GPU: python -m tests.benchmarks.gpu [--model NAME] [CHECKPOINT]

Needs torch with CUDA and onnxruntime-gpu[cuda,cudnn]; prints a Markdown table. Without CHECKPOINT,
the model is random: a BERT of Bio_ClinicalBERT's shape, or with `--model modernbert` one of
BioClinical ModernBERT-base's, in windows of 8,192 tokens. The fp16 model folder is exported and
compared with PyTorch on the GPU, then timed: the session alone on full windows, embedding a
hospital of nearly full windows into a store, and from texts to vectors, on full windows and on
notes of the synthetic hospital. On the same windows and texts, in the same run, PyTorch (fp16,
scaled dot-product attention) and, if it is installed, sentence-transformers (fp16) are timed too.
ONNX Runtime prints which kernel each attention node uses; these are counted.
"""

import argparse
import collections
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import duckdb
import numpy as np
import pyarrow as pa
import torch

from batch.embedding.encoder import batches
from export.checkpoint import load_checkpoint
from export.tokenizer import WindowTokenizer, padded
from featurestore import OnnxEncoder, create_store, embed_pending, export, sync
from featurestore.store import failpoints
from featurestore.synthetic.hospital import invented_notes
from tests.benchmarks.common import hospital, random_bert, random_modernbert, timed


class Shape(NamedTuple):
    """A model to measure."""

    write: Callable  # writes a random checkpoint
    lengths: tuple[int, ...]  # tokens of the full windows that the session is timed on
    gflop: float  # of a window of 512 tokens


SHAPES = {
    "bert": Shape(random_bert, (512,), 96.6),
    "modernbert": Shape(random_modernbert, (512, 2_048, 8_192), 122.2),
}
PRINT_KERNELS = """
import sys
from featurestore import OnnxEncoder
from featurestore.synthetic.hospital import invented_notes
OnnxEncoder(sys.argv[1], "cuda").encode(invented_notes(64))
"""


def print_row(name, value, note=""):
    print(f"| {name} | {value} | {note} |", flush=True)


def best_time(function, device, rounds=3):
    """Return the best time of `rounds` calls in seconds, after a warm-up call, and the result."""
    best = float("inf")
    for round_number in range(rounds + 1):
        if device == "cuda":
            torch.cuda.synchronize()
        started = time.perf_counter()
        result = function()
        if device == "cuda":
            torch.cuda.synchronize()
        if round_number:
            best = min(best, time.perf_counter() - started)
    return best, result


def gemm_tflops(device, dtype, size=8192):
    """Return the speed of a square matrix product in TFLOP/s."""
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    seconds, _ = best_time(lambda: a @ b, device, rounds=10)
    return 2 * size**3 / seconds / 1e12


def pytorch_encoder(model, window_tokenizer, device, budget=65_536):
    """Return a function from texts to [CLS] with the checkpoint's own class, in like batches."""

    def encode(texts):
        windows = [ids for of_text in window_tokenizer.windows(texts) for ids in of_text]
        vectors = np.empty((len(windows), model.config.hidden_size), np.float32)
        for batch in batches([len(ids) for ids in windows], budget):
            arrays = padded([windows[index] for index in batch])
            ids, mask = (torch.from_numpy(array).to(device) for array in arrays)
            with torch.inference_mode():
                states = model(ids, mask).last_hidden_state[:, 0]
            vectors[batch] = states.float().cpu().numpy()
        return vectors

    return encode


def sentence_transformers_encoder(checkpoint, device, max_tokens):
    """Return the same with sentence-transformers; None if it is not installed."""
    try:
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    except ImportError:
        return None
    settings = {"dtype": torch.float16}
    encoder = Transformer(str(checkpoint), max_seq_length=max_tokens, model_kwargs=settings)
    model = SentenceTransformer(modules=[encoder, Pooling(768, "cls")], device=device)
    return lambda texts: model.encode(
        texts, batch_size=65_536 // max_tokens, show_progress_bar=False
    )


def long_texts(notes):
    """Return the notes joined and cut into texts of 40 kB: nearly all windows are full."""
    joined = " ".join(notes)
    return [joined[start : start + 40_000] for start in range(0, len(joined), 40_000)]


def full_windows(encoder, texts, length):
    """Return as many windows of exactly `length` tokens as `encode` takes at once."""
    tokens = np.concatenate([ids for of_text in encoder.tokenize(texts) for ids in of_text])
    windows = max(1, encoder.budget // length)
    return np.resize(tokens, (windows, length)).astype(np.int32)


def print_speed(name, windows, seconds, note=""):
    per_second, tokens = len(windows) / seconds, windows.size / seconds
    print_row(name, f"{per_second:,.0f} windows/s", f"{tokens / 1e6:.2f} M tokens/s{note}")


def measure_session(encoder, texts, device, lengths):
    """Time `run` on full windows."""
    for length in lengths:
        windows = full_windows(encoder, texts, length)
        seconds, _ = best_time(lambda batch=list(windows): encoder.run(batch), device, rounds=10)
        print_speed(f"session alone, {len(windows)} x {length:,}", windows, seconds)
    if device == "cuda":
        free, total = torch.cuda.mem_get_info()
        print_row("GPU memory in use", f"{(total - free) / 2**30:.1f} GiB", "before PyTorch's")


def measure_pytorch(model, encoder, texts, device, lengths):
    """Time the checkpoint's own class on the same windows."""
    for length in lengths:
        windows = full_windows(encoder, texts, length)
        ids = torch.from_numpy(windows.astype(np.int64))

        def forward(ids=ids):
            ids = ids.to(device)
            with torch.inference_mode():
                states = model(ids, torch.ones_like(ids)).last_hidden_state[:, 0]
            return states.float().cpu()

        note = ""
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        seconds, _ = best_time(forward, device, rounds=5)
        if device == "cuda":
            note = f", {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB"
        print_speed(f"PyTorch sdpa alone, {len(windows)} x {length:,}", windows, seconds, note)


def measure_store(encoder, texts, folder, device):
    """Time embedding a hospital, from its texts to the rows of the store, and the parts of it."""
    (folder / "hospital").mkdir()
    with duckdb.connect() as con:
        con.register("texts", pa.table({"i": range(len(texts)), "new_text": texts}))
        for table, query in hospital(-(-len(texts) // 20) * 20).items():
            if table == "NOTEEVENTS":
                query = (
                    f"SELECT notes.* REPLACE (new_text AS TEXT) FROM ({query}) AS notes "
                    "JOIN texts ON ROW_ID = i"
                )
            con.execute(f"COPY ({query}) TO '{folder / 'hospital' / table}.parquet'")
    store = create_store(folder / "gpu.duckdb", folder / "hospital", "mimic3")
    sync(store)
    tokenize, tokenizing = encoder.tokenize, []

    def timed_tokenize(texts):
        seconds, windows = timed(lambda: tokenize(texts))
        tokenizing.append(seconds)
        return windows

    encoder.tokenize = timed_tokenize
    first_hit = {}
    failpoints.hit = lambda name: first_hit.setdefault(name, time.perf_counter())
    seconds, counts = timed(lambda: embed_pending(store, encoder))
    commit_seconds = time.perf_counter() - first_hit["copy"]
    failpoints.hit = lambda name: None
    encoder.tokenize = tokenize
    print_row(
        f"end to end into a store: {counts['windows']:,} windows, nearly all full",
        f"{counts['windows'] / seconds:,.0f} windows/s",
        f"{seconds:.1f} s, of which the commit {commit_seconds:.1f} s; {sum(tokenizing):.1f} s of "
        "tokenizing in another thread",
    )
    if device == "cuda":
        free, total = torch.cuda.mem_get_info()
        print_row("GPU memory in use", f"{(total - free) / 2**30:.1f} GiB", "with PyTorch's own")


def print_parity(name, vectors, expected):
    """Compare vectors with those of PyTorch in fp32 on the same device."""
    mean = expected.mean(axis=0)
    print_row(
        f"cosine to PyTorch fp32, {name}: {len(vectors)} windows",
        f"{smallest_cosine(vectors, expected):.6f}",
        f"target: 0.9999; mean-centred {smallest_cosine(vectors - mean, expected - mean):.5f}; "
        f"largest difference {np.abs(vectors - expected).max():.1e}",
    )


def smallest_cosine(a, b):
    return ((a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).min()


def attention_kernels(folder):
    """Return how many passes of attention nodes used which kernel, as ONNX Runtime prints it."""
    finished = subprocess.run(
        [sys.executable, "-c", PRINT_KERNELS, str(folder)],
        env={**os.environ, "ORT_ENABLE_ATTENTION_KERNEL_DEBUG_INFO": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    return count_kernels(finished.stdout + finished.stderr) or "nothing printed"


def count_kernels(output):
    return collections.Counter(re.findall(r"Operator=(\w+).*?SdpaKernel=(\w+)", output))


def measure(checkpoint, folder, device, precision, shape):
    parity = export(checkpoint, folder, name="gpu", cleaning="none", precision=precision)
    encoder = OnnxEncoder(folder, device)
    dtype = torch.float16 if precision == "fp16" else torch.float32
    size = 8192 if device == "cuda" else 512
    peak = gemm_tflops(device, dtype, size)
    print_row(f"{precision} GEMM, {size:,} wide", f"{peak:,.0f} TFLOP/s")
    print_row("provider", encoder.provider, f"parity measured on {parity['provider']}")
    texts = long_texts(invented_notes(40_000 if device == "cuda" else 50, seed=1))
    measure_session(encoder, texts[:20], device, shape.lengths)
    measure_store(encoder, texts, folder.parent, device)

    import transformers

    model, tokenizer = load_checkpoint(checkpoint, transformers.AutoModel)
    window_tokenizer = WindowTokenizer(tokenizer.backend_tokenizer, encoder.manifest["max_tokens"])
    exact = model.float().eval().to(device)
    torch.backends.cuda.matmul.allow_tf32 = False
    notes = invented_notes(4_000 if device == "cuda" else 20)
    sample = [*notes[:20], *texts[:2]]  # the latter make windows of the most tokens
    expected = pytorch_encoder(exact, window_tokenizer, device)(sample)
    print_parity("featurestore", encoder.encode_windows(sample).vectors, expected)
    half = exact.to(dtype)
    vectors = pytorch_encoder(half, window_tokenizer, device)(sample)
    print_parity(f"PyTorch {precision}", vectors, expected)
    measure_pytorch(half, encoder, texts[:20], device, shape.lengths)
    pytorch = pytorch_encoder(half, window_tokenizer, device)
    max_tokens = encoder.manifest["max_tokens"]
    sentence_transformers = sentence_transformers_encoder(checkpoint, device, max_tokens)
    for lengths, texts in (("real lengths", notes), ("nearly all full", long_texts(notes))):
        seconds, encoded = best_time(lambda texts=texts: encoder.encode_windows(texts), device)
        windows_per_second = len(encoded.vectors) / seconds
        tokens = int(encoded.n_tokens.sum())
        fraction = tokens / 512 * shape.gflop / seconds / 1e3 / peak
        print_row(
            f"featurestore, {lengths}: {len(encoded.vectors):,} windows, {tokens:,} tokens",
            f"{windows_per_second:,.0f} windows/s",
            f"{fraction:.0%} of the GEMM (for a base model)",
        )
        seconds, vectors = best_time(lambda texts=texts: pytorch(texts), device)
        print_row(
            f"PyTorch {precision} sdpa, {lengths}", f"{len(vectors) / seconds:,.0f} windows/s"
        )
        if sentence_transformers is None:
            print_row("sentence-transformers", "not installed", "pip install sentence-transformers")
        elif texts is notes:
            seconds, _ = best_time(lambda texts=texts: sentence_transformers(texts), device)
            notes_per_second = len(texts) / (len(encoded.vectors) / windows_per_second)
            print_row(
                f"sentence-transformers, {lengths}",
                f"{len(texts) / seconds:,.0f} notes/s",
                f"first {max_tokens:,} tokens only; featurestore {notes_per_second:,.0f} notes/s",
            )
    if device == "cuda":
        print_row("attention kernels", attention_kernels(folder))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", nargs="?", type=Path)
    parser.add_argument("--model", choices=SHAPES, default="bert")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("torch finds no GPU on this machine - nothing was measured")
    print(f"{torch.cuda.get_device_name()}\n\n| what | measured | |\n| --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = arguments.checkpoint
        if checkpoint is None:
            checkpoint = Path(folder) / arguments.model
            SHAPES[arguments.model].write(checkpoint, invented_notes(500))
        measure(checkpoint, Path(folder) / "model", "cuda", "fp16", SHAPES[arguments.model])


if __name__ == "__main__":
    main()
