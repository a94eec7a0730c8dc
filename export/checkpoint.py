"""A checkpoint: its model, its tokenizer, and where it comes from."""

import contextlib
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from export.model_folder import sha256
from featurestore.errors import FeatureStoreError


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


def checkpoint_info(checkpoint: str | Path, config: Any) -> dict[str, Any]:
    folder = Path(checkpoint)
    if not folder.is_dir():
        return {"name": str(checkpoint), "revision": getattr(config, "_commit_hash", None)}
    weights = sorted([*folder.glob("*.safetensors"), *folder.glob("pytorch_model*.bin")])
    facts: dict[str, Any] = {"name": folder.resolve().name}
    facts["files"] = {file.name: sha256(file) for file in weights}
    if (folder / "finetune.json").is_file():
        facts["finetune"] = json.loads((folder / "finetune.json").read_text())
    return facts


@contextlib.contextmanager
def quiet_loggers(*loggers: str) -> Iterator[None]:
    levels = {name: logging.getLogger(name).level for name in loggers}
    for name in loggers:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(None):
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
