"""Checkpoints of transformers: loading one without running its code, and describing it."""

import contextlib
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from export.model_folder import sha256
from featurestore.errors import ModelError

_HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w.-]+")  # OWNER/NAME
_MIN_CASED_TOKENS = 1_000  # a vocabulary with more tokens in upper case is a cased one


def load_checkpoint(checkpoint: str | Path, auto_class: Any, **settings: Any) -> tuple[Any, Any]:
    """Load a model, with an Auto class of transformers, and its fast tokenizer.

    `checkpoint` is a folder or a hub name (OWNER/NAME). No code of the checkpoint is run. Raises
    ModelError where it cannot be loaded.
    """
    import transformers

    if not Path(checkpoint).is_dir() and not _HUB_NAME.fullmatch(str(checkpoint)):
        raise ModelError(f"{checkpoint} does not exist - name the folder of a checkpoint")
    quiet_transformers()
    try:
        model = auto_class.from_pretrained(str(checkpoint), trust_remote_code=False, **settings)
        tokenizer = transformers.AutoTokenizer.from_pretrained(str(checkpoint), use_fast=True)
    except Exception as error:  # safetensors, tokenizers and the hub have exceptions of their own
        raise ModelError(
            f"{checkpoint} could not be loaded as a checkpoint ({type(error).__name__}) - name a "
            "folder with config.json, weights and tokenizer; on a machine without a network, copy "
            f'the folder that "hf download {checkpoint} --local-dir FOLDER" writes elsewhere'
        ) from None
    _keep_case_of_cased_vocabulary(tokenizer.backend_tokenizer)
    return model, tokenizer


def quiet_transformers() -> None:
    """Turn off progress bars and warnings of transformers."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)


def _keep_case_of_cased_vocabulary(tokenizer: Any) -> None:
    """Stop a tokenizer from lower-casing text where its vocabulary is cased.

    Bio_ClinicalBERT has a cased vocabulary and no tokenizer settings, and BERT's default is to
    lower-case: a third of the vocabulary would never be used.
    """
    from tokenizers.normalizers import BertNormalizer

    normalizer = tokenizer.normalizer
    cased = sum(token != token.lower() for token in tokenizer.get_vocab())
    if (
        isinstance(normalizer, BertNormalizer)
        and normalizer.lowercase
        and cased > _MIN_CASED_TOKENS
    ):
        tokenizer.normalizer = BertNormalizer(lowercase=False, strip_accents=False)


def checkpoint_info(checkpoint: str | Path, config: Any) -> dict[str, Any]:
    """Return name and revision (of a hub), or name, hashes and finetune.json (of a folder)."""
    folder = Path(checkpoint)
    if not folder.is_dir():
        return {"name": str(checkpoint), "revision": getattr(config, "_commit_hash", None)}
    weights = sorted([*folder.glob("*.safetensors"), *folder.glob("pytorch_model*.bin")])
    info: dict[str, Any] = {"name": folder.resolve().name}
    info["files"] = {file.name: sha256(file) for file in weights}
    if (folder / "finetune.json").is_file():
        info["finetune"] = json.loads((folder / "finetune.json").read_text())
    return info


@contextlib.contextmanager
def quiet_loggers(*names: str) -> Iterator[None]:
    """Turn off warnings of these loggers, and stdout, within the block."""
    levels = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(None):
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
