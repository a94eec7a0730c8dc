"""Embedding speed on whatever NVIDIA card is there: python -m tests.benchmarks.gpu [CHECKPOINT]

Needs torch with CUDA and onnxruntime-gpu[cuda,cudnn]; prints a Markdown table. Without CHECKPOINT
the model is a random BERT of Bio_ClinicalBERT's shape. The fp16 model folder is exported and proven
on the card, then timed from texts to vectors, on full windows and on notes of the synthetic
hospital, beside PyTorch (fp16, scaled-dot-product attention) and, where it is installed,
sentence-transformers (fp16), on the same texts in the same run. Which kernel each attention node
chose is printed by ONNX Runtime itself and counted here.
"""

import argparse
import collections
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from batch.embedding.encoder import batches
from export.checkpoint import load_checkpoint
from export.onnx_export.exporter import export
from export.tokenizer import make_window_tokenizer, padded, windows
from featurestore import OnnxEncoder
from featurestore.synthetic.hospital import invented_notes
from tests.benchmarks.common import random_bert

GFLOP = 96.6  # BERT-base, a window of 512 word pieces
KERNELS = """
import sys
from featurestore import OnnxEncoder
from featurestore.synthetic.hospital import invented_notes
OnnxEncoder(sys.argv[1], "cuda").encode(invented_notes(64))
"""


def row(what, measured, note=""):
    print(f"| {what} | {measured} | {note} |", flush=True)


def timed(work, device, rounds=3):
    """The best of some rounds, in seconds, after one that does not count; and its answer."""
    best = float("inf")
    for no in range(rounds + 1):
        if device == "cuda":
            torch.cuda.synchronize()
        started = time.perf_counter()
        answer = work()
        if device == "cuda":
            torch.cuda.synchronize()
        if no:
            best = min(best, time.perf_counter() - started)
    return best, answer


def gemm(device, dtype, size=8192):
    """What the card reaches in a plain matrix product, in TFLOP/s."""
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    seconds, _ = timed(lambda: a @ b, device, rounds=10)
    return 2 * size**3 / seconds / 1e12


def by_pytorch(model, tokenizer, device, budget=65_536):
    """Texts -> [CLS], with the checkpoint's own class: batches by length under the same budget."""

    def encode(texts):
        cut = [ids for of_text in windows(tokenizer, texts) for ids in of_text]
        found = np.empty((len(cut), model.config.hidden_size), np.float32)
        for batch in batches([len(ids) for ids in cut], budget):
            ids, mask = (torch.from_numpy(a).to(device) for a in padded([cut[no] for no in batch]))
            with torch.inference_mode():
                states = model(ids, mask).last_hidden_state[:, 0]
            found[batch] = states.float().cpu().numpy()
        return found

    return encode


def by_sentence_transformers(checkpoint, device):
    """The same with sentence-transformers; None where it is not installed."""
    try:
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    except ImportError:
        return None
    settings = {"dtype": torch.float16}
    bert = Transformer(str(checkpoint), max_seq_length=512, model_kwargs=settings)
    model = SentenceTransformer(modules=[bert, Pooling(768, "cls")], device=device)
    return lambda texts: model.encode(texts, batch_size=128, show_progress_bar=False)


def kernels(folder):
    """How many passes of an attention node took which kernel, as ONNX Runtime says it."""
    finished = subprocess.run(
        [sys.executable, "-c", KERNELS, str(folder)],
        env={**os.environ, "ORT_ENABLE_ATTENTION_KERNEL_DEBUG_INFO": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    return told_kernels(finished.stdout + finished.stderr) or "nothing was said"


def told_kernels(said):
    return collections.Counter(re.findall(r"Operator=(\w+).*?SdpaKernel=(\w+)", said))


def measure(checkpoint, folder, device, precision):
    facts = export(checkpoint, folder, name="gpu", cleaning="none", precision=precision)
    encoder = OnnxEncoder(folder, device)
    dtype = torch.float16 if precision == "fp16" else torch.float32
    peak = gemm(device, dtype, size=8192 if device == "cuda" else 512)
    row(f"{precision} GEMM, 8192 wide", f"{peak:,.0f} TFLOP/s")
    row("provider", encoder.provider, f"proven on {facts['provider']}")

    import transformers

    model, tokenizer = load_checkpoint(checkpoint, transformers.AutoModel)
    cut = make_window_tokenizer(tokenizer.backend_tokenizer, encoder.manifest["max_tokens"], 0)
    exact = model.float().eval().to(device)
    torch.backends.cuda.matmul.allow_tf32 = False
    notes = invented_notes(4_000 if device == "cuda" else 20)
    sample = notes[:20]
    theirs = by_pytorch(exact, cut, device)(sample)
    ours = encoder.encode(sample).vectors
    norms = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
    cosine = ((ours * theirs).sum(axis=1) / norms).min()
    row("cosine to PyTorch fp32 on the card", f"{cosine:.6f}", "0.9999 is asked")

    half = by_pytorch(exact.to(dtype), cut, device)
    peer = by_sentence_transformers(checkpoint, device)
    long = " ".join(notes)
    full = [long[at : at + 40_000] for at in range(0, len(long), 40_000)]
    for what, texts in (("real lengths", notes), ("nearly all full", full)):
        seconds, answer = timed(lambda texts=texts: encoder.encode(texts), device)
        speed = len(answer.vectors) / seconds
        tokens = int(answer.n_tokens.sum())
        share = tokens / 512 * GFLOP / seconds / 1e3 / peak
        row(
            f"ours, {what}: {len(answer.vectors):,} windows, {tokens:,} word pieces",
            f"{speed:,.0f} windows/s",
            f"{share:.0%} of the GEMM (for BERT-base)",
        )
        seconds, vectors = timed(lambda texts=texts: half(texts), device)
        row(f"PyTorch {precision} sdpa, {what}", f"{len(vectors) / seconds:,.0f} windows/s")
        if peer is None:
            row("sentence-transformers", "not installed", "pip install sentence-transformers")
        elif texts is notes:
            seconds, _ = timed(lambda texts=texts: peer(texts), device)
            row(
                f"sentence-transformers, {what}",
                f"{len(texts) / seconds:,.0f} notes/s",
                f"cut at 512; ours {len(texts) / (len(answer.vectors) / speed):,.0f} notes/s whole",
            )
    if device == "cuda":
        row("attention kernels", kernels(folder))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", nargs="?", type=Path)
    chosen = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("this machine has no GPU that torch can use: nothing was measured")
    print(f"{torch.cuda.get_device_name()}\n\n| what | measured | |\n| --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        if chosen.checkpoint is None:
            random_bert(Path(folder) / "bert", invented_notes(500))
        measure(chosen.checkpoint or Path(folder) / "bert", Path(folder) / "model", "cuda", "fp16")


if __name__ == "__main__":
    main()
