"""The model folder of an exported encoder: its files, its fingerprint and their verification."""

import hashlib
import json
import mmap
from pathlib import Path
from typing import Any

from export.onnx_session import PRECISIONS_OF_CPUS
from featurestore.errors import ModelError

MODEL = "model.onnx"
TOKENIZER = "tokenizer.json"
MANIFEST = "encoder.json"
CARD = "README.md"
CLASSIFIER_HEAD = "classifier_head.npz"  # only of a checkpoint fine-tuned to classify
REFERENCE = "reference.npz"  # only where another CPU may compute otherwise
_OPTIONAL = (CLASSIFIER_HEAD, REFERENCE)

# What determines a vector, together with the bytes of the model and its tokenizer.
SETTINGS = ("cleaning", "max_tokens", "stride", "pooling", "precision")


def sha256(file: Path) -> str:
    """Return the SHA-256 of a file, in hex."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_manifest(folder: Path, name: str, settings: dict[str, Any], **info: Any) -> str:
    """Write encoder.json and README.md for the folder's model; return its encoder id.

    The id is the name and the first eight hex digits of the fingerprint: a SHA-256 over the
    hashes of model.onnx and tokenizer.json and over SETTINGS.
    """
    files = {
        file: sha256(folder / file)
        for file in (MODEL, TOKENIZER, *_OPTIONAL)
        if file not in _OPTIONAL or (folder / file).exists()
    }
    fingerprint = _fingerprint(files, settings)
    encoder_id = f"{name}-{fingerprint[:8]}"
    manifest = {
        "encoder_id": encoder_id,
        "name": name,
        "fingerprint": fingerprint,
        **settings,
        "files": files,
        **info,
    }
    (folder / CARD).write_text(_card(manifest))
    files[CARD] = sha256(folder / CARD)
    (folder / MANIFEST).write_text(_with_own_hash(manifest))
    return encoder_id


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the folder's encoder.json after comparing every file with its recorded hash.

    Raises ModelError for a folder that is not a model folder, a missing or changed file, a link,
    and a graph that keeps weights in other files.
    """
    if not (folder / MANIFEST).is_file():
        raise ModelError(
            f"{folder} is not a model folder: it has no {MANIFEST} - "
            f'"featurestore export CHECKPOINT {folder}" writes one'
        )
    try:
        text = (folder / MANIFEST).read_text()
        manifest: dict[str, Any] = json.loads(text)
        manifest.pop("sha256")
        needed = [MODEL, TOKENIZER, CARD]
        if manifest["precision"] in PRECISIONS_OF_CPUS:
            needed.append(REFERENCE)
        files = {file: manifest["files"][file] for file in needed}
        files |= {file: manifest["files"][file] for file in _OPTIONAL if file in manifest["files"]}
        fingerprint = _fingerprint(files, manifest)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ModelError(f"{folder / MANIFEST} is damaged - export the model again") from None
    for file, digest in files.items():
        if (folder / file).is_symlink():
            raise ModelError(f"{folder / file} is a link - copy the file itself into the folder")
        if not (folder / file).is_file():
            raise ModelError(f"{folder / file} is missing - export the model again")
        if sha256(folder / file) != digest:
            raise ModelError(
                f"{folder / file} has changed since the export - export the model again"
            )
    if _has_external_weights(folder / MODEL):
        raise ModelError(f"{folder / MODEL} keeps weights in other files - export the model again")
    encoder_id = f"{manifest.get('name')}-{fingerprint[:8]}"
    ids = (manifest.get("fingerprint"), manifest.get("encoder_id"))
    if ids != (fingerprint, encoder_id) or text != _with_own_hash(manifest):
        raise ModelError(
            f"{folder / MANIFEST} has changed since the export - export the model again"
        )
    return manifest


def _with_own_hash(manifest: dict[str, Any]) -> str:
    """Return the text of encoder.json, which ends with a SHA-256 of the text before it."""
    text = json.dumps(manifest, indent=2)
    digest = hashlib.sha256(text.encode()).hexdigest()
    return json.dumps({**manifest, "sha256": digest}, indent=2) + "\n"


def _fingerprint(files: dict[str, str], settings: dict[str, Any]) -> str:
    parts = [files[MODEL], files[TOKENIZER], *(f"{key}={settings[key]}" for key in SETTINGS)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _has_external_weights(model: Path) -> bool:
    """Return whether an ONNX file keeps tensors in other files: each has a key `location`."""
    with model.open("rb") as stream:
        if not model.stat().st_size:
            return False
        with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return data.find(b"location") >= 0


_VECTORS = {
    "cls": "[CLS] of the last layer",
    "mean": "the mean of the last layer over all tokens",
    "cls+normalize": "[CLS] of the last layer, scaled to length 1",
    "mean+normalize": "the mean of the last layer over all tokens, scaled to length 1",
}


def _card(manifest: dict[str, Any]) -> str:
    """Return the model card: what the vectors are, their origin, their parity with PyTorch."""
    checkpoint, parity = manifest["checkpoint"], manifest["parity"]
    finetuning = checkpoint.get("finetune")
    history = "whether it was fine-tuned is not known"
    if finetuning:
        windows = (finetuning.get("windows") or {}).get("train")
        days = finetuning.get("horizon_days")
        history = (
            f"fine-tuned from {finetuning.get('base')} on {windows} windows, label rule "
            f"{finetuning.get('label_rule')}, cutoff {finetuning.get('cutoff')}"
            f"{f', horizon {days} days' if days else ''} (details in encoder.json)"
        )
    versions = ", ".join(f"{name} {version}" for name, version in manifest["versions"].items())
    return f"""# {manifest["encoder_id"]}

An ONNX graph that returns {_VECTORS[manifest["pooling"]]}: {manifest["dim"]} numbers per window.

| | |
| --- | --- |
| checkpoint | {checkpoint["name"]}, {history} |
| family | {manifest["family"]}, {manifest["layers"]} layers |
| windows | at most {manifest["max_tokens"]} tokens, stride {manifest["stride"]}, \
cleaning {manifest["cleaning"]} |
| pooling | {manifest["pooling"]} |
| precision | {manifest["precision"]} |
| parity with PyTorch | largest difference {parity["max_abs_difference"]:.1e}, smallest cosine \
{parity["min_cosine"]:.7f}, smallest mean-centred cosine {parity["min_cosine_centred"]:.4f}, \
of {parity["windows"]} windows |
| exported with | {versions}, opset {manifest["opset"]} |

Use it with `featurestore embed STORE {manifest["name"]}`. Do not mix vectors of different encoder
ids. Vectors of notes are patient data: text can be reconstructed from them. Do not evaluate a model
on patients whose notes it was trained on. For research; not a medical device.
"""
