"""Windows of tokens from the text of a note: cleaned, tokenized, and split with nothing lost."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from featurestore.errors import FeatureStoreError, ModelError

Ids = npt.NDArray[np.int32]  # (tokens,)

CLEANINGS = ("deid-v1", "none")

# Longer texts are tokenized in parts: the tokenizer needs a hundred times the memory of its text.
_PART_CHARS = 100_000
_PARTS_PER_BATCH = 8
_PART_BOUNDARY = re.compile(r"(?<=\S) (?=\w)")  # no token spans a space between two words


def clean(text: str, cleaning: str) -> str:
    """Return the text without de-identification marks (`deid-v1`), or unchanged (`none`).

    The marks are [**2101-10-20**] in MIMIC-III, which may span lines, and ___ in MIMIC-IV. A space
    replaces each of them.
    """
    if cleaning == "none":
        return text
    parts, position = [], 0
    # A regular expression would take quadratic time on marks that are never closed.
    while (start := text.find("[**", position)) >= 0 and (end := text.find("**]", start + 3)) >= 0:
        parts.append(text[position:start])
        position = end + 3
    return re.sub("_{3,}", " ", " ".join([*parts, text[position:]]))


class WindowTokenizer:
    """Split texts into windows of at most `max_tokens` tokens, which overlap by `stride` tokens.

    Each window begins and ends with the special tokens that the tokenizer puts around a text, such
    as [CLS] and [SEP]. Truncation and padding of the tokenizer itself are removed. Raises
    ModelError for a tokenizer that gives tokens of one text several types, and FeatureStoreError
    where `stride` leaves no room for text.
    """

    def __init__(self, tokenizer: Tokenizer, max_tokens: int, stride: int = 0) -> None:
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self.prefix, self.suffix = _special_tokens(tokenizer)
        self.room = max_tokens - len(self.prefix) - len(self.suffix)  # tokens of text in a window
        if not 0 <= stride < self.room:
            raise FeatureStoreError(
                f"stride must be from 0 to {self.room - 1} for windows of {max_tokens} tokens, got "
                f"{stride}"
            )
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens
        self.stride = stride

    @classmethod
    def from_file(cls, file: Path, max_tokens: int, stride: int = 0) -> Self:
        """Load a tokenizer.json. Raises ModelError where it is invalid."""
        try:
            tokenizer = Tokenizer.from_file(str(file))
        except Exception:  # tokenizers raises plain Exception
            raise ModelError(f"{file} is not a valid tokenizer - export the model again") from None
        return cls(tokenizer, max_tokens, stride)

    def windows(self, texts: Sequence[str]) -> list[list[Ids]]:
        """Return the windows of each text, special tokens included; none for a text of no tokens.

        They equal those of the tokenizer's own truncation with overflow, with less memory and time.
        """
        windows = []
        for ids in self.tokens(texts):
            end = max(len(ids) - self.stride, min(len(ids), 1))
            starts = range(0, end, self.room - self.stride)
            windows.append([self.around(ids[start : start + self.room]) for start in starts])
        return windows

    def around(self, ids: Ids) -> Ids:
        """Return the tokens of a text with the special tokens around them."""
        return np.concatenate([self.prefix, ids, self.suffix])

    def tokens(self, texts: Sequence[str]) -> Iterator[Ids]:
        """Yield the tokens of each text, without special tokens."""
        short = iter(self._encode([text for text in texts if len(text) <= _PART_CHARS]))
        for text in texts:
            if len(text) <= _PART_CHARS:
                yield next(short)
            else:
                parts = list(_split(text))
                batches = (
                    self._encode(parts[start : start + _PARTS_PER_BATCH])
                    for start in range(0, len(parts), _PARTS_PER_BATCH)
                )
                yield np.concatenate([ids for batch in batches for ids in batch])

    def _encode(self, texts: Sequence[str]) -> list[Ids]:
        encodings = self.tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        return [np.array(encoding.ids, np.int32) for encoding in encodings]


def _special_tokens(tokenizer: Tokenizer) -> tuple[Ids, Ids]:
    """Return the special tokens that the tokenizer puts before and after a text."""
    plain, whole = (tokenizer.encode("a", add_special_tokens=special) for special in (False, True))
    count = len(whole.ids) - len(plain.ids)
    for before in range(count + 1 if plain.ids else 0):
        if whole.ids[before : before + len(plain.ids)] == plain.ids:
            break
    else:
        raise ModelError(
            "the tokenizer does not keep the tokens of a text between its special tokens - use the "
            "tokenizer that the model was trained with"
        )
    if any(whole.type_ids):
        raise ModelError(
            "the tokenizer gives the tokens of one text types other than 0, which is not supported "
            "- use another checkpoint"
        )
    ids = np.array(whole.ids, np.int32)
    return ids[:before], ids[before + len(plain.ids) :]


def _split(text: str) -> Iterator[str]:
    start = 0
    while len(text) - start > _PART_CHARS and (
        boundary := _PART_BOUNDARY.search(text, start + _PART_CHARS)
    ):
        yield text[start : boundary.start()]
        start = boundary.start()
    yield text[start:]


def padded(
    batch: Sequence[Ids], rows: int = 0, tokens: int = 0
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return ids and attention mask (windows, tokens) of a batch, zero-padded on the right.

    The arrays have at least `rows` windows and `tokens` tokens; the mask of an added window has a
    single 1, so that its attention is defined.
    """
    longest = max(tokens, *(len(ids) for ids in batch))
    input_ids = np.zeros((max(rows, len(batch)), longest), np.int64)
    attention_mask = np.zeros_like(input_ids)
    attention_mask[len(batch) :, 0] = 1
    for row, ids in enumerate(batch):
        input_ids[row, : len(ids)] = ids
        attention_mask[row, : len(ids)] = 1
    return input_ids, attention_mask
