"""Memory and time of long windows: a ModernBERT of the base shape with 8,192 tokens a window.

    python -m tests.benchmarks.long_windows [--precision fp32] [--full 6]

Random weights, synthetic notes; prints Markdown. Each row is measured in a process of its own,
because the memory of a process never shrinks.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.benchmarks.common import peak_memory, random_modernbert, row, timed

WINDOW = 8_192


def measure(folder, notes, full):
    """Embed one window of each note, so many of them of 8,192 tokens."""
    from batch.embedding.encoder import OnnxEncoder, encode
    from featurestore.synthetic.hospital import invented_notes

    encoder = OnnxEncoder(folder, "cpu")
    loaded = peak_memory()
    texts = invented_notes(500, seed=7)
    joined = " ".join(texts)
    long = [joined[no * 1_000 :][: 10 * WINDOW] for no in range(full)]
    windows = [of_text[:1] for of_text in encoder.tokenize([*long, *texts[: notes - full]])]
    lengths = [len(ids) for ((ids),) in windows]
    assert lengths.count(WINDOW) == full
    seconds, _ = timed(lambda: encode(encoder, windows))
    row(
        f"{notes} notes, {full} of them a window of {WINDOW:,} tokens; {sum(lengths):,} tokens",
        f"{seconds:.0f} s, {sum(lengths) / seconds:,.0f} tokens/s",
        f"{peak_memory() / 1000:.1f} GB, {loaded / 1000:.1f} GB of it after loading",
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--precision", default="fp32")
    parser.add_argument(
        "--full", type=int, default=6, help="windows of 8,192 tokens among 40 notes"
    )
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        folder, notes, full = arguments.measure
        return measure(Path(folder), int(notes), int(full))
    with tempfile.TemporaryDirectory() as folder:
        from export.onnx_export.exporter import export
        from featurestore.synthetic.hospital import invented_notes

        random_modernbert(Path(folder, "checkpoint"), invented_notes(200, seed=3))
        model = Path(folder, "model")
        export(Path(folder, "checkpoint"), model, precision=arguments.precision)
        print("| what | measured | memory |\n| --- | --- | --- |")
        for notes, full in ((1, 1), (40, arguments.full)):
            script = [sys.executable, "-m", "tests.benchmarks.long_windows", "--measure"]
            subprocess.run([*script, model, str(notes), str(full)], check=True)


if __name__ == "__main__":
    main()
