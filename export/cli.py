"""The commands that need torch: finetune, export."""

import json
from pathlib import Path

import click

from featurestore.cli import CUTOFF, HORIZON, JSON, STORE, Failure, main, progress

POSITIVE = click.FloatRange(0, 1_000, min_open=True)
CHECKPOINT = click.argument("checkpoint", type=click.Path(path_type=Path))


def needs_torch() -> None:
    """Say how to get the export extra where it is missing."""
    try:
        import torch  # noqa: F401
        import transformers  # noqa: F401
    except ImportError:
        raise Failure(
            'fine-tuning and export need torch - pip install "clinical-featurestore[export]"'
        ) from None


@main.command("finetune")
@STORE
@CHECKPOINT
@click.option(
    "--base",
    required=True,
    help="What to start from: a folder, or a hub name such as emilyalsentzer/Bio_ClinicalBERT.",
)
@CUTOFF
@HORIZON
@click.option("--epochs", type=POSITIVE, default=3.0, show_default=True)
@click.option("--batch-size", type=click.IntRange(1), default=8, show_default=True)
@click.option("--learning-rate", type=POSITIVE, default=5e-5, show_default=True)
@click.option(
    "--max-tokens",
    type=click.IntRange(8),
    default=512,
    show_default=True,
    help="Word pieces in a window.",
)
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True)
def finetune_command(
    store: Path,
    checkpoint: Path,
    base: str,
    cutoff: str,
    horizon_days: int,
    epochs: float,
    batch_size: int,
    learning_rate: float,
    max_tokens: int,
    seed: int,
) -> None:
    """Fine-tune a BERT on the store's labelled notes."""
    needs_torch()
    from export.finetune import finetune
    from featurestore import Store

    with progress("steps") as done:
        facts = finetune(
            Store(store),
            checkpoint,
            base,
            cutoff,
            horizon_days,
            epochs,
            batch_size,
            learning_rate,
            max_tokens,
            seed,
            done,
        )
    click.echo(json.dumps({key: facts[key] for key in ("windows", "positives", "steps", "valid")}))


@main.command("export")
@click.argument("checkpoint")
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--name", help="What the encoder is called (default: the checkpoint's name).")
@click.option(
    "--max-tokens", type=click.IntRange(8), help="Word pieces in a window (default: the model's)."
)
@click.option(
    "--stride",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Word pieces that windows share.",
)
@click.option("--opset", type=click.IntRange(18, 23), default=20, show_default=True)
@JSON
def export_command(
    checkpoint: str,
    model: Path,
    name: str | None,
    max_tokens: int | None,
    stride: int,
    opset: int,
    as_json: bool,
) -> None:
    """Export a checkpoint to ONNX for [CLS] extraction."""
    needs_torch()
    from export.to_onnx import export

    facts = export(checkpoint, model, name, max_tokens, stride, opset=opset)
    if as_json:
        click.echo(json.dumps(facts))
        return
    click.echo(
        f"{facts['encoder_id']} in {model}: differs from PyTorch by at most "
        f"{facts['max_abs_difference']:.1e} (cosine {facts['min_cosine']:.7f})"
    )
