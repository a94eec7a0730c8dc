"""The commands that need torch: finetune, export."""

import os
import tempfile
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from featurestore.cli.json_output import echo_json
from featurestore.cli.options import CUTOFF, HORIZON, JSON, TASK, rule_options
from featurestore.cli.progress import progress, say

POSITIVE = click.FloatRange(0, 1_000, min_open=True)
CSV = click.Path(exists=True, dir_okay=False, path_type=Path)


def require_torch() -> None:
    """Import torch with a private cache folder, or say how to install the export extra."""
    # By default torch makes a cache folder in /tmp under a name that others can predict.
    folder = click.get_current_context().with_resource(tempfile.TemporaryDirectory())
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = folder
    try:
        import torch  # noqa: F401
        import transformers  # noqa: F401
    except ImportError:
        raise click.ClickException(
            'fine-tuning and export need torch - pip install "clinical-featurestore[export]"'
        ) from None


@click.command("finetune")
@click.argument(
    "paths", nargs=-1, metavar="[STORE] CHECKPOINT", type=click.Path(path_type=Path), required=True
)
@click.option(
    "--base",
    required=True,
    help="Checkpoint to start from: a folder or a hub name (emilyalsentzer/Bio_ClinicalBERT).",
)
@click.option("--train-csv", type=CSV, help="Instead of a STORE: columns ID, TEXT and Label.")
@click.option("--val-csv", type=CSV, help="The same, to choose the best step on.")
@TASK
@CUTOFF
@HORIZON
@rule_options
@click.option("--epochs", type=POSITIVE, default=3.0, show_default=True)
@click.option("--batch-size", type=click.IntRange(1), default=8, show_default=True)
@click.option("--learning-rate", type=POSITIVE, default=5e-5, show_default=True)
@click.option(
    "--max-tokens",
    type=click.IntRange(8),
    default=512,
    show_default=True,
    help="Tokens in a window.",
)
@click.option("--balance", is_flag=True, help="Train on an equal number of windows of each label.")
@click.option(
    "--bf16", is_flag=True, help="Compute in bfloat16: faster on a CPU with AMX or a recent GPU."
)
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True)
@click.pass_context
def finetune_command(
    ctx: click.Context,
    /,
    paths: tuple[Path, ...],
    train_csv: Path | None,
    val_csv: Path | None,
    **settings: Any,
) -> None:
    """Fine-tune a BERT on the store's labelled notes.

    Instead of a STORE, --train-csv and --val-csv take labelled notes as ClinicalBERT publishes
    them. If a run is killed, the same command resumes it from its newest step.
    """
    files = [file for file in (train_csv, val_csv) if file is not None]
    if len(files) == 1:
        raise click.UsageError("--train-csv and --val-csv must be used together")
    if len(paths) != (1 if files else 2):
        raise click.UsageError(
            "pass STORE and CHECKPOINT, or CHECKPOINT with --train-csv and --val-csv"
        )
    names = ("task", "cutoff", "horizon_days", "min_age", "planned_type", "same_day", "deaths")
    given = [
        f"--{name.replace('_', '-')}"
        for name in names
        if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE
    ]
    if files and given:
        raise click.UsageError(f"{given[0]} does not apply to --train-csv")
    require_torch()
    from featurestore import Store, finetune

    data = (files[0], files[1]) if files else Store(paths[0])
    with progress("steps") as done:
        info = finetune(data, paths[-1], **settings, progress=done)
    windows, positives = info["windows"]["valid"], info["positives"]["valid"]
    if not 0 < positives < windows:
        kept = "the step of the lowest loss on them" if windows else "the last step"
        say(
            f"Warning: {positives:,} of {windows:,} validation windows are positive, so there is "
            f"no AUROC, and {kept} was kept - fine-tune on more admissions"
        )
    keys = ("windows", "positives", "steps", "best_step", "valid")
    echo_json({key: info[key] for key in keys})


@click.command("export")
@click.argument("checkpoint")
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--name", help="Name of the encoder (default: the checkpoint's name).")
@click.option(
    "--max-tokens", type=click.IntRange(8), help="Tokens in a window (default: the model's)."
)
@click.option(
    "--stride",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Tokens that consecutive windows share.",
)
@click.option(
    "--precision",
    type=click.Choice(["fp32", "bf16", "int8", "fp16"]),
    default="fp32",
    show_default=True,
    help="bf16 and int8 are for CPUs that have them, fp16 for GPUs.",
)
@click.option(
    "--pooling",
    type=click.Choice(["auto", "cls", "mean"]),
    default="auto",
    show_default=True,
    help="auto: as a sentence-transformers checkpoint says, else [CLS].",
)
@click.option("--opset", type=click.IntRange(18, 23), default=20, show_default=True)
@JSON
def export_command(
    checkpoint: str,
    model: Path,
    name: str | None,
    max_tokens: int | None,
    stride: int,
    precision: str,
    pooling: str,
    opset: int,
    as_json: bool,
) -> None:
    """Export a checkpoint to ONNX and compare it with PyTorch."""
    require_torch()
    from export.onnx_export.exporter import recommended_precision
    from featurestore import export

    with progress("steps") as advance:
        info = export(
            checkpoint,
            model,
            name,
            max_tokens,
            stride,
            precision=precision,
            opset=opset,
            pooling=pooling,
            progress=advance,
        )
    best, reason = recommended_precision()
    if as_json:
        echo_json({**info, "recommended": {"precision": best, "reason": reason}})
        return
    click.echo(
        f"{info['encoder_id']} in {model}: {info['pooling']} pooling, windows of "
        f"{info['max_tokens']} tokens; differs from PyTorch by at most "
        f"{info['max_abs_difference']:.1e} (cosine {info['min_cosine']:.7f}, "
        f"mean-centred cosine {info['min_cosine_centred']:.4f})"
    )
    if best != precision:
        click.echo(f"On this machine use --precision {best}: {reason}.", err=True)
