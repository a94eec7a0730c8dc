"""The model folder: what an exported encoder consists of, its fingerprint, and its checks."""

import hashlib
import json
from pathlib import Path
from typing import Any

from featurestore.errors import FeatureStoreError

MODEL = "model.onnx"
TOKENIZER = "tokenizer.json"
MANIFEST = "encoder.json"

# All that decides a vector, beside the bytes of the model and of its tokenizer.
SETTINGS = ("cleaning", "max_tokens", "stride", "pooling", "precision")


def sha256(file: Path) -> str:
    """The SHA-256 of a file, in hex."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_manifest(folder: Path, name: str, settings: dict[str, Any], **facts: Any) -> str:
    """Describe the folder's model in encoder.json and return its encoder id.

    The id is the name and the first eight hex digits of the fingerprint: a SHA-256 over the
    hashes of model.onnx and tokenizer.json and over SETTINGS.
    """
    files = {file: sha256(folder / file) for file in (MODEL, TOKENIZER)}
    decisive = [files[MODEL], files[TOKENIZER], *(f"{key}={settings[key]}" for key in SETTINGS)]
    fingerprint = hashlib.sha256("\n".join(decisive).encode()).hexdigest()
    encoder_id = f"{name}-{fingerprint[:8]}"
    manifest = {
        "encoder_id": encoder_id,
        "name": name,
        "fingerprint": fingerprint,
        **settings,
        "files": files,
        **facts,
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")
    return encoder_id


def read_manifest(folder: Path) -> dict[str, Any]:
    """The folder's encoder.json, once every byte of the folder was found to be as it says.

    Raises FeatureStoreError for a folder that is no model folder, and for a changed file.
    """
    if not (folder / MANIFEST).is_file():
        raise FeatureStoreError(
            f'{folder} is no model folder: it has no {MANIFEST} - "featurestore export CHECKPOINT '
            f'{folder}" writes one'
        )
    try:
        manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text())
        files, decisive = manifest["files"], [manifest[key] for key in SETTINGS]
        claimed = [files[MODEL], files[TOKENIZER]]
    except (ValueError, KeyError, TypeError):
        raise FeatureStoreError(
            f"{folder / MANIFEST} is damaged - export the model again"
        ) from None
    for file in (MODEL, TOKENIZER):
        if not (folder / file).is_file():
            raise FeatureStoreError(f"{folder / file} is missing - export the model again")
        if sha256(folder / file) != files[file]:
            raise FeatureStoreError(
                f"{folder / file} is not the file that was exported - export the model again"
            )
    lines = [*claimed, *(f"{k}={v}" for k, v in zip(SETTINGS, decisive, strict=True))]
    fingerprint = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    encoder_id = f"{manifest.get('name')}-{fingerprint[:8]}"
    if (manifest.get("fingerprint"), manifest.get("encoder_id")) != (fingerprint, encoder_id):
        raise FeatureStoreError(
            f"{folder / MANIFEST} was changed after the export - export the model again"
        )
    return manifest
