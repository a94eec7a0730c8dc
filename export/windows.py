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
    return cut_windows(Tokenizer.from_file(str(file)), max_tokens, stride)


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


def padded(batch: Sequence[Ids]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Ids and attention mask of some windows, filled up with zeros to the longest of them."""
    longest = max(len(ids) for ids in batch)
    input_ids = np.zeros((len(batch), longest), np.int64)  # (windows, tokens)
    attention_mask = np.zeros_like(input_ids)
    for row, ids in enumerate(batch):
        input_ids[row, : len(ids)] = ids
        attention_mask[row, : len(ids)] = 1
    return input_ids, attention_mask
