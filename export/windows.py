"""A note's text as windows of word pieces: cleaned, tokenized, cut with nothing lost."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from featurestore.errors import FeatureStoreError

Ids = npt.NDArray[np.int32]

# Marks of de-identification: [**2101-10-20**] in MIMIC-III, ___ in MIMIC-IV.
_DEIDENTIFIED = re.compile(r"\[\*\*.*?\*\*\]|_{3,}", re.DOTALL)

CLEANINGS = ("deid-v1", "none")


def clean(text: str, cleaning: str) -> str:
    """The text that the tokenizer sees: `deid-v1` blanks the marks of de-identification."""
    return _DEIDENTIFIED.sub(" ", text) if cleaning == "deid-v1" else text


def load_tokenizer(file: Path, max_tokens: int, stride: int) -> Tokenizer:
    """A tokenizer that cuts windows of at most `max_tokens` word pieces, overlapping by `stride`.

    A tokenizer.json can carry a truncation and padding of its own: both are replaced.
    """
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception:  # the Rust library has no class of its own for it
        raise FeatureStoreError(f"{file} is no tokenizer - export the model again") from None
    return cut_windows(tokenizer, max_tokens, stride)


def cut_windows(tokenizer: Tokenizer, max_tokens: int, stride: int) -> Tokenizer:
    """Set the tokenizer to windows; raises FeatureStoreError where they would hold no text."""
    special = tokenizer.num_special_tokens_to_add(False)
    if special != 2:
        raise FeatureStoreError(
            f"the tokenizer adds {special} special tokens where [CLS] and [SEP] are two - "
            "use the tokenizer that the model was trained with"
        )
    if not 0 <= stride < max_tokens - special:
        raise FeatureStoreError(
            f"a stride of {stride} does not fit windows of {max_tokens} - give less than "
            f"{max_tokens - special}"
        )
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_length=max_tokens, stride=stride)
    return tokenizer


def windows(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[Ids]]:
    """The windows of each text, [CLS] and [SEP] included; none for a text without a word piece."""
    cut = []
    for encoding in tokenizer.encode_batch(list(texts)):
        parts = [encoding, *encoding.overflowing]
        cut.append([np.array(part.ids, np.int32) for part in parts if len(part.ids) > 2])
    return cut


def padded(
    batch: Sequence[Ids], rows: int = 0, tokens: int = 0
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Ids and attention mask of some windows, filled up with zeros to the longest of them.

    Up to `rows` windows and `tokens` word pieces where that is more; an added window reads its
    first word piece only.
    """
    longest = max(tokens, *(len(ids) for ids in batch))
    input_ids = np.zeros((max(rows, len(batch)), longest), np.int64)  # (windows, tokens)
    attention_mask = np.zeros_like(input_ids)
    attention_mask[len(batch) :, 0] = 1
    for row, ids in enumerate(batch):
        input_ids[row, : len(ids)] = ids
        attention_mask[row, : len(ids)] = 1
    return input_ids, attention_mask
