"""Checkpoints of transformers: loading one without running its code, and describing it."""

import contextlib
import json
import logging
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from export.model_folder import sha256
from featurestore.errors import ModelError

_HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w.-]+")  # OWNER/NAME
_MIN_CASED_TOKENS = 1_000  # a vocabulary with more tokens in upper case is a cased one


def load_checkpoint(checkpoint: str | Path, auto_class: Any, **settings: Any) -> tuple[Any, Any]:
    """Load a model, with an Auto class of transformers, and its fast tokenizer.

    `checkpoint` is a folder or a hub name (OWNER/NAME). No code of the checkpoint is run. Weights
    are float32, however they are stored. Raises ModelError where it cannot be loaded, or lacks
    weights of its encoder.
    """
    import torch
    import transformers

    if not Path(checkpoint).is_dir() and not _HUB_NAME.fullmatch(str(checkpoint)):
        raise ModelError(f"{checkpoint} does not exist - name the folder of a checkpoint")
    quiet_transformers()
    try:
        model, loaded = auto_class.from_pretrained(
            str(checkpoint),
            trust_remote_code=False,
            dtype=torch.float32,
            output_loading_info=True,
            **settings,
        )
        tokenizer = transformers.AutoTokenizer.from_pretrained(str(checkpoint), use_fast=True)
    except Exception as error:  # safetensors, tokenizers and the hub have exceptions of their own
        raise ModelError(
            f"{checkpoint} could not be loaded as a checkpoint ({type(error).__name__}) - name a "
            "folder with config.json, weights and tokenizer; on a machine without a network, copy "
            f'the folder that "hf download {checkpoint} --local-dir FOLDER" writes elsewhere'
        ) from None
    _check_weights(checkpoint, model, loaded["missing_keys"])
    if not hasattr(tokenizer, "backend_tokenizer"):
        raise ModelError(
            f"{checkpoint} has a {type(tokenizer).__name__}, which is not a fast tokenizer - use a "
            "checkpoint with tokenizer.json"
        )
    _keep_case_of_cased_vocabulary(tokenizer.backend_tokenizer)
    return model, tokenizer


def _check_weights(checkpoint: str | Path, model: Any, missing: Iterable[str]) -> None:
    """Raise ModelError where weights of the encoder would be random, or would not be used.

    transformers only warns of either. A pooler, a head and a decoder may be missing.
    """
    encoder = model.base_model
    if hasattr(encoder, "decoder"):
        encoder = getattr(encoder, "encoder", encoder)
    needed = {id(weight) for name, weight in encoder.named_parameters() if "pooler" not in name}
    weights = dict(model.named_parameters())
    lacking = sorted(name for name in missing if id(weights.get(name)) in needed)
    if lacking:
        raise ModelError(
            f"{checkpoint} lacks {len(lacking)} weights of its encoder, as {lacking[0]} - copy the "
            "checkpoint again, or use one of that model type"
        )
    if str(getattr(model.config, "position_embedding_type", "")).startswith("relative_key"):
        raise ModelError(
            f"{checkpoint} has positions of type {model.config.position_embedding_type}, which "
            "transformers no longer computes - use another checkpoint"
        )


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


# What sentence-transformers does with an encoder unless its settings say otherwise.
_PLAIN: dict[str, Any] = {
    "transformer_task": "feature-extraction",
    "module_output_name": "token_embeddings",
    "processing_kwargs": None,
    "method": "forward",
    "method_output_name": "last_hidden_state",
}


@dataclass
class SentenceSettings:
    """What a checkpoint of sentence-transformers says about its vectors."""

    pooling: str  # as the pooling of a model folder
    max_tokens: int | None
    lowercase: bool


def sentence_settings(checkpoint: str | Path) -> SentenceSettings | None:
    """Return the settings of a sentence-transformers checkpoint, None for any other.

    Raises ModelError for one that does more than an encoder, [CLS] or mean pooling and Normalize.
    """
    modules = _read_json(checkpoint, "modules.json")
    if modules is None:
        return None
    advice = "use --pooling cls or --pooling mean to take the encoder's own states instead"
    try:
        kinds = [module["type"].rsplit(".", 1)[-1] for module in modules]
        paths = [module["path"] for module in modules]
    except (KeyError, TypeError, AttributeError):
        raise ModelError(f"modules.json of {checkpoint} is damaged - copy it again") from None
    if kinds not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        raise ModelError(
            f"{checkpoint} is made of {', '.join(kinds)}; of sentence-transformers only "
            f"Transformer, Pooling and Normalize are supported - {advice}"
        )
    if paths[0]:
        raise ModelError(
            f"{checkpoint} keeps its encoder in {paths[0]} - export that folder, with "
            "--pooling cls or --pooling mean"
        )
    general = _read_json(checkpoint, "config_sentence_transformers.json") or {}
    if (general.get("prompts") or {}).get(general.get("default_prompt_name")):
        raise ModelError(f"{checkpoint} puts a prompt before each text - {advice}")
    encoder: dict[str, Any] = {}
    for name in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet"):
        encoder = encoder or _read_json(checkpoint, f"sentence_{name}_config.json") or {}
    text = (encoder.get("modality_config") or {}).get("text") or {}
    settings = {**_PLAIN, **{key: encoder[key] for key in _PLAIN if encoder.get(key)}, **text}
    if settings != _PLAIN:
        changed = sorted(key for key in settings if settings[key] != _PLAIN.get(key))
        raise ModelError(
            f"{checkpoint} sets {', '.join(changed)} of its encoder, which is not supported - "
            + advice
        )
    return SentenceSettings(
        _pooling(checkpoint, _read_json(checkpoint, f"{paths[1]}/config.json"), advice)
        + "+normalize" * (len(modules) == 3),
        encoder.get("max_seq_length"),
        bool(encoder.get("do_lower_case")),
    )


def _pooling(checkpoint: str | Path, config: dict[str, Any] | None, advice: str) -> str:
    if config is None:
        raise ModelError(f"{checkpoint} has no settings of its pooling - copy the folder again")
    modes = config.get("pooling_mode")
    if modes is None:  # as sentence-transformers wrote it before version 6
        prefix = "pooling_mode_"
        modes = [
            key.removeprefix(prefix).removesuffix("_tokens").removesuffix("_token")
            for key, active in config.items()
            if key.startswith(prefix) and active
        ]
    modes = [modes] if isinstance(modes, str) else list(modes)
    if modes not in (["cls"], ["mean"]):
        raise ModelError(
            f"{checkpoint} pools by {' and '.join(modes) or 'nothing'}, which is not supported - "
            f"{advice}"
        )
    return str(modes[0])


def lowercase_first(tokenizer: Any) -> None:
    """Make a tokenizer lower-case text before anything else."""
    from tokenizers.normalizers import Lowercase, Sequence

    before = [tokenizer.normalizer] if tokenizer.normalizer is not None else []
    tokenizer.normalizer = Sequence([Lowercase(), *before])


def _read_json(checkpoint: str | Path, name: str) -> Any:
    """Return a JSON file of a folder or hub checkpoint, None where it has no such file."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    file = Path(checkpoint) / name
    if not Path(checkpoint).is_dir():
        try:
            file = Path(hf_hub_download(str(checkpoint), name))
        except Exception as error:  # the hub has exceptions of many kinds
            if isinstance(error, EntryNotFoundError) and not isinstance(
                error, LocalEntryNotFoundError
            ):
                return None
            raise ModelError(
                f"the hub cannot be asked for {name} of {checkpoint}, which may say how to pool - "
                "use --pooling cls or --pooling mean"
            ) from None
    try:
        return json.loads(file.read_text()) if file.is_file() else None
    except ValueError:
        raise ModelError(f"{file} is damaged - copy the checkpoint again") from None


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
