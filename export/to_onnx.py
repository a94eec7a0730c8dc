"""From a checkpoint to a model folder: the graph whose one output is [CLS] of the last layer."""

import contextlib
import json
import logging
import re
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from export.model_folder import MODEL, TOKENIZER, sha256, write_manifest
from export.windows import CLEANINGS, cut_windows, padded
from featurestore.errors import FeatureStoreError

TOLERANCE = 1e-4  # largest absolute difference to PyTorch, fp32
_LENGTHS = (3, 4, 7, 16, 33, 64, 128, 200, 256, 384, 511, 512)


def export(
    checkpoint: str | Path,
    folder: str | Path,
    name: str | None = None,
    max_tokens: int | None = None,
    stride: int = 0,
    cleaning: str = "deid-v1",
    opset: int = 20,
) -> dict[str, Any]:
    """Export a BERT checkpoint (a folder, or a hub name) for [CLS] extraction; return its parity.

    The graph takes `input_ids` and `attention_mask` (windows, tokens) and gives `cls`
    (windows, dim) float32: row 0 of the last layer's hidden states. It is compared with PyTorch
    before the folder gets its name, so that there is a whole and proven folder or none.
    `max_tokens` is the model's own limit where it is not given. Raises FeatureStoreError.
    """
    import torch
    import transformers

    folder = Path(folder)
    if folder.exists():
        raise FeatureStoreError(f"{folder} exists already - give the model another folder")
    if cleaning not in CLEANINGS:
        raise FeatureStoreError(f"unknown cleaning {cleaning} - use one of {', '.join(CLEANINGS)}")
    if name and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise FeatureStoreError(f"{name!r} is no name for a model - use letters, digits, - . and _")
    name = name or re.sub(r"[^A-Za-z0-9._]+", "-", Path(str(checkpoint)).name).strip("-").lower()
    model, checkpoint_tokenizer = load_checkpoint(checkpoint, transformers.AutoModel)
    limit = int(model.config.max_position_embeddings)
    max_tokens = max_tokens or limit
    if max_tokens > limit:
        raise FeatureStoreError(
            f"{checkpoint} has {limit} positions, windows of {max_tokens} do not fit - give "
            f"--max-tokens {limit} or less"
        )
    tokenizer = cut_windows(checkpoint_tokenizer.backend_tokenizer, max_tokens, stride)
    settings = {
        "cleaning": cleaning,
        "max_tokens": max_tokens,
        "stride": stride,
        "pooling": "cls",
        "precision": "fp32",
    }
    with half_made(folder) as draft:
        cls_model = _cls_model(model).eval()
        _write_graph(cls_model, draft / MODEL, max_tokens, opset)
        tokenizer.save(str(draft / TOKENIZER))
        parity = _compare(cls_model, draft / MODEL, model.config.vocab_size, max_tokens)
        encoder_id = write_manifest(
            draft,
            name,
            settings,
            dim=int(model.config.hidden_size),
            layers=int(model.config.num_hidden_layers),
            checkpoint=_checkpoint_facts(checkpoint),
            parity=parity,
            versions={"torch": torch.__version__, "transformers": transformers.__version__},
        )
    return {"encoder_id": encoder_id, **parity}


def load_checkpoint(checkpoint: str | Path, kind: Any, **settings: Any) -> tuple[Any, Any]:
    """A checkpoint's model, of an Auto class of transformers, and its (Rust-backed) tokenizer.

    Only weights are read, never code. Raises FeatureStoreError where it cannot be had.
    """
    import transformers

    # A hub is asked only for what can be a hub's name: OWNER/NAME.
    named_on_a_hub = re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", str(checkpoint))
    if not Path(checkpoint).is_dir() and not named_on_a_hub:
        raise FeatureStoreError(f"{checkpoint} does not exist - name a checkpoint's folder")
    quiet_transformers()
    try:
        model = kind.from_pretrained(str(checkpoint), trust_remote_code=False, **settings)
        tokenizer = transformers.AutoTokenizer.from_pretrained(str(checkpoint), use_fast=True)
    except Exception as error:  # safetensors, tokenizers and the hub each have their own
        raise FeatureStoreError(
            f"{checkpoint} could not be loaded as a checkpoint ({type(error).__name__}) - name a "
            "folder with config.json, weights and tokenizer; without a network, download it "
            f'elsewhere with "hf download {checkpoint} --local-dir FOLDER" and bring the folder'
        ) from None
    _case_as_its_vocabulary(tokenizer.backend_tokenizer)
    return model, tokenizer


def quiet_transformers() -> None:
    """No progress bars and advice of transformers between our own."""
    from transformers.utils import logging as chatter

    chatter.set_verbosity_error()  # type: ignore[no-untyped-call]
    chatter.disable_progress_bar()  # type: ignore[no-untyped-call]
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)


def _case_as_its_vocabulary(tokenizer: Any) -> None:
    """Stop a tokenizer from lower-casing where its vocabulary is cased.

    Bio_ClinicalBERT comes with a cased vocabulary and no tokenizer settings, and the default for
    BERT is to lower-case: a third of the vocabulary would never be met.
    """
    from tokenizers.normalizers import BertNormalizer

    normalizer = tokenizer.normalizer
    cased = sum(piece != piece.lower() for piece in tokenizer.get_vocab())
    if isinstance(normalizer, BertNormalizer) and normalizer.lowercase and cased > 1000:
        tokenizer.normalizer = BertNormalizer(lowercase=False, strip_accents=False)


def _cls_model(model: Any) -> Any:
    import torch

    class LastLayerCls(torch.nn.Module):
        """[CLS] as the last layer leaves it, not as the embedding layer starts it."""

        def __init__(self) -> None:
            super().__init__()
            self.encoder = model

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            states = self.encoder(input_ids=input_ids, attention_mask=attention_mask)
            cls: torch.Tensor = states.last_hidden_state[:, 0]  # (windows, dim)
            return cls

    return LastLayerCls()


def _write_graph(cls_model: Any, file: Path, max_tokens: int, opset: int) -> None:
    import torch

    ids = torch.ones((2, min(16, max_tokens)), dtype=torch.int64)
    windows, tokens = torch.export.Dim("windows"), torch.export.Dim("tokens", max=max_tokens)
    shape = {0: windows, 1: tokens}
    with warnings.catch_warnings(), _quiet("torch.onnx", "onnxscript", "onnx_ir"):
        warnings.simplefilter("ignore")  # the exporter's own deprecations
        torch.onnx.export(
            cls_model,
            (ids, torch.ones_like(ids)),
            str(file),
            input_names=["input_ids", "attention_mask"],
            output_names=["cls"],
            dynamic_shapes=(shape, shape),
            opset_version=opset,
            dynamo=True,
            external_data=False,
            verbose=False,
        )


def _compare(cls_model: Any, file: Path, vocabulary: int, max_tokens: int) -> dict[str, Any]:
    """How far the graph is from PyTorch: windows of many lengths, alone and in mixed batches."""
    import onnxruntime
    import torch

    pieces = np.random.default_rng(0)
    lengths = [length for length in _LENGTHS if length <= max_tokens]
    drawn = [pieces.integers(0, vocabulary, length).astype(np.int32) for length in lengths]
    batches = [[window] for window in drawn] + [drawn, drawn[::-2]]
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    theirs, ours = [], []
    for batch in batches:
        input_ids, attention_mask = padded(batch)
        with torch.no_grad():
            cls = cls_model(torch.from_numpy(input_ids), torch.from_numpy(attention_mask))
        theirs.append(cls.numpy())
        feed = {"input_ids": input_ids, "attention_mask": attention_mask}
        ours.append(session.run(["cls"], feed)[0])
    return judge_parity(np.concatenate(theirs), np.concatenate(ours))


def judge_parity(
    pytorch: npt.NDArray[np.float32], graph: npt.NDArray[np.float32]
) -> dict[str, Any]:
    """The largest difference and smallest cosine of vectors (windows, dim) of the same windows.

    Raises FeatureStoreError beyond TOLERANCE, and where the vectors do not depend on the window:
    [CLS] of the embedding layer, say, is the same for every note.
    """
    difference = float(np.abs(pytorch - graph).max())
    norms = np.linalg.norm(pytorch, axis=1) * np.linalg.norm(graph, axis=1)
    cosine = float(((pytorch * graph).sum(axis=1) / norms).min())
    if not difference <= TOLERANCE:
        raise FeatureStoreError(
            f"the graph differs from PyTorch by {difference:.1e} where {TOLERANCE:.0e} is allowed "
            "- please report the checkpoint's kind; no folder was written"
        )
    if graph.std(axis=0).max() < 1e-6:
        raise FeatureStoreError(
            "the graph gives every window the same vector, as the embedding layer's [CLS] does - "
            "export the last layer of a trained model; no folder was written"
        )
    return {"max_abs_difference": difference, "min_cosine": cosine}


def _checkpoint_facts(checkpoint: str | Path) -> dict[str, Any]:
    folder = Path(checkpoint)
    weights = sorted([*folder.glob("*.safetensors"), *folder.glob("pytorch_model*.bin")])
    facts: dict[str, Any] = {"name": folder.name}
    facts["files"] = {file.name: sha256(file) for file in weights}
    if (folder / "finetune.json").is_file():
        facts["finetune"] = json.loads((folder / "finetune.json").read_text())
    return facts


@contextlib.contextmanager
def half_made(folder: Path) -> Iterator[Path]:
    """A folder under another name, which becomes `folder` when the block ends well."""
    if not folder.resolve().parent.is_dir():
        folder.resolve().parent.mkdir(parents=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.resolve().parent))
    try:
        yield draft
        draft.rename(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


@contextlib.contextmanager
def _quiet(*loggers: str) -> Iterator[None]:
    levels = {name: logging.getLogger(name).level for name in loggers}
    for name in loggers:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(None):
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
