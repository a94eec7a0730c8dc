"""The model folder: what an exported encoder consists of, its fingerprint, and its checks."""

import hashlib
import json
import mmap
from pathlib import Path
from typing import Any

from featurestore.errors import FeatureStoreError

MODEL = "model.onnx"
TOKENIZER = "tokenizer.json"
MANIFEST = "encoder.json"
CARD = "README.md"
CLASSIFIER_HEAD = "classifier_head.npz"  # only of a checkpoint fine-tuned to classify

# All that decides a vector, beside the bytes of the model and of its tokenizer.
SETTINGS = ("cleaning", "max_tokens", "stride", "pooling", "precision")


def sha256(file: Path) -> str:
    """The SHA-256 of a file, in hex."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_manifest(folder: Path, name: str, settings: dict[str, Any], **facts: Any) -> str:
    """Describe the folder's model in encoder.json and README.md, and return its encoder id.

    The id is the name and the first eight hex digits of the fingerprint: a SHA-256 over the
    hashes of model.onnx and tokenizer.json and over SETTINGS.
    """
    files = {
        file: sha256(folder / file)
        for file in (MODEL, TOKENIZER, CLASSIFIER_HEAD)
        if file != CLASSIFIER_HEAD or (folder / file).exists()
    }
    fingerprint = _fingerprint(files, settings)
    encoder_id = f"{name}-{fingerprint[:8]}"
    manifest = {
        "encoder_id": encoder_id,
        "name": name,
        "fingerprint": fingerprint,
        **settings,
        "files": files,
        **facts,
    }
    (folder / CARD).write_text(_card(manifest))
    files[CARD] = sha256(folder / CARD)
    (folder / MANIFEST).write_text(_with_own_hash(manifest))
    return encoder_id


def read_manifest(folder: Path) -> dict[str, Any]:
    """The folder's encoder.json, once every byte of the folder was found to be as it says.

    Raises FeatureStoreError for a folder that is no model folder, for a changed file, for a link,
    and for a graph that would read other files.
    """
    if not (folder / MANIFEST).is_file():
        raise FeatureStoreError(
            f'{folder} is no model folder: it has no {MANIFEST} - "featurestore export CHECKPOINT '
            f'{folder}" writes one'
        )
    try:
        text = (folder / MANIFEST).read_text()
        manifest: dict[str, Any] = json.loads(text)
        manifest.pop("sha256")
        files = {file: manifest["files"][file] for file in (MODEL, TOKENIZER, CARD)}
        if CLASSIFIER_HEAD in manifest["files"]:
            files[CLASSIFIER_HEAD] = manifest["files"][CLASSIFIER_HEAD]
        fingerprint = _fingerprint(files, manifest)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise FeatureStoreError(
            f"{folder / MANIFEST} is damaged - export the model again"
        ) from None
    for file, digest in files.items():
        if (folder / file).is_symlink():
            raise FeatureStoreError(
                f"{folder / file} is a link - copy the file itself into the folder"
            )
        if not (folder / file).is_file():
            raise FeatureStoreError(f"{folder / file} is missing - export the model again")
        if sha256(folder / file) != digest:
            raise FeatureStoreError(
                f"{folder / file} is not the file that was exported - export the model again"
            )
    if _refers_elsewhere(folder / MODEL):
        raise FeatureStoreError(
            f"{folder / MODEL} keeps weights in other files - export the model again"
        )
    encoder_id = f"{manifest.get('name')}-{fingerprint[:8]}"
    ids = (manifest.get("fingerprint"), manifest.get("encoder_id"))
    if ids != (fingerprint, encoder_id) or text != _with_own_hash(manifest):
        raise FeatureStoreError(
            f"{folder / MANIFEST} was changed after the export - export the model again"
        )
    return manifest


def _with_own_hash(manifest: dict[str, Any]) -> str:
    """The text of encoder.json, which ends with a SHA-256 of what stands before."""
    text = json.dumps(manifest, indent=2)
    digest = hashlib.sha256(text.encode()).hexdigest()
    return json.dumps({**manifest, "sha256": digest}, indent=2) + "\n"


def _fingerprint(files: dict[str, str], settings: dict[str, Any]) -> str:
    decisive = [files[MODEL], files[TOKENIZER], *(f"{key}={settings[key]}" for key in SETTINGS)]
    return hashlib.sha256("\n".join(decisive).encode()).hexdigest()


def _refers_elsewhere(model: Path) -> bool:
    """Whether an ONNX file keeps tensors outside of itself: each such tensor says `location`."""
    with model.open("rb") as stream:
        if not model.stat().st_size:
            return False
        with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return data.find(b"location") >= 0


def _card(manifest: dict[str, Any]) -> str:
    """The model card: what the vectors are, where they come from, how near to PyTorch they are."""
    checkpoint, parity = manifest["checkpoint"], manifest["parity"]
    tuned = checkpoint.get("finetune")
    history = "as it is; whether it was fine-tuned is not known"
    if tuned:
        windows = (tuned.get("windows") or {}).get("train")
        history = (
            f"fine-tuned from {tuned.get('base')} on {windows} windows, label rule "
            f"{tuned.get('label_rule')}, cutoff {tuned.get('cutoff')}, horizon "
            f"{tuned.get('horizon_days')} days (all of it in encoder.json)"
        )
    versions = ", ".join(f"{name} {version}" for name, version in manifest["versions"].items())
    return f"""# {manifest["encoder_id"]}

[CLS] of the last layer, {manifest["dim"]} numbers a window, as a graph for ONNX Runtime.

| | |
| --- | --- |
| checkpoint | {checkpoint["name"]}, {history} |
| family | {manifest["family"]}, {manifest["layers"]} layers |
| windows | at most {manifest["max_tokens"]} word pieces, {manifest["stride"]} shared, \
cleaning {manifest["cleaning"]} |
| precision | {manifest["precision"]} |
| against PyTorch | differs by at most {parity["max_abs_difference"]:.1e}, cosine at least \
{parity["min_cosine"]:.7f} ({parity["min_cosine_centred"]:.4f} less the mean vector), on \
{parity["windows"]} windows |
| made with | {versions}, opset {manifest["opset"]} |

Use it with `featurestore embed STORE {manifest["name"]}`. Vectors of different encoders (ids) must
not be mixed. Vectors of notes are patient data: text can be won back from them. A model that was
trained on a patient's notes knows the patient: evaluate on others. It is for research and not a
medical device.
"""
