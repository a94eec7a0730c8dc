"""A note's text as windows of word pieces: cleaned, tokenized, cut with nothing lost."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from featurestore.errors import FeatureStoreError

Ids = npt.NDArray[np.int32]

# A longer text is tokenized in parts: the tokenizer needs a hundred times a text's size.
_PART = 100_000
_SEAM = re.compile(r"(?<=\S) (?=\w)")  # a space between words, where no tokenizer looks across

CLEANINGS = ("deid-v1", "none")


@dataclass(frozen=True)
class WindowTokenizer:
    """A tokenizer, and the windows to cut: at most `max_tokens` long, overlapping by `stride`."""

    tokenizer: Tokenizer
    max_tokens: int
    stride: int


def clean(text: str, cleaning: str) -> str:
    """The text that the tokenizer sees: `deid-v1` blanks the marks of de-identification.

    They are [**2101-10-20**] in MIMIC-III, which may span lines, and ___ in MIMIC-IV.
    """
    if cleaning == "none":
        return text
    kept, at = [], 0
    # No regular expression: over many marks without an end one looks to the end from each.
    while (start := text.find("[**", at)) >= 0 and (end := text.find("**]", start + 3)) >= 0:
        kept.append(text[at:start])
        at = end + 3
    return re.sub("_{3,}", " ", " ".join([*kept, text[at:]]))


def load_tokenizer(file: Path, max_tokens: int, stride: int) -> WindowTokenizer:
    """A tokenizer that cuts windows of at most `max_tokens` word pieces, overlapping by `stride`.

    A tokenizer.json can carry a truncation and padding of its own: both are left out.
    """
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception:  # the Rust library has no class of its own for it
        raise FeatureStoreError(f"{file} is no tokenizer - export the model again") from None
    return make_window_tokenizer(tokenizer, max_tokens, stride)


def make_window_tokenizer(tokenizer: Tokenizer, max_tokens: int, stride: int) -> WindowTokenizer:
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
    tokenizer.no_truncation()
    return WindowTokenizer(tokenizer, max_tokens, stride)


def windows(window_tokenizer: WindowTokenizer, texts: Sequence[str]) -> list[list[Ids]]:
    """The windows of each text, [CLS] and [SEP] included; none for a text without a word piece.

    They are those of the tokenizer's own truncation with overflow, in less memory and time.
    """
    first, last = (np.array([no], np.int32) for no in window_tokenizer.tokenizer.encode("").ids)
    room = window_tokenizer.max_tokens - 2
    cut = []
    for ids in _word_pieces(window_tokenizer.tokenizer, texts):
        starts = range(
            0,
            max(len(ids) - window_tokenizer.stride, min(len(ids), 1)),
            room - window_tokenizer.stride,
        )
        cut.append([np.concatenate([first, ids[at : at + room], last]) for at in starts])
    return cut


def _word_pieces(tokenizer: Tokenizer, texts: Sequence[str]) -> Iterator[Ids]:
    """The word pieces of each text, without [CLS] and [SEP]."""

    def encoded(some: Sequence[str]) -> list[Ids]:
        batch = tokenizer.encode_batch_fast(some, add_special_tokens=False)
        return [np.array(encoding.ids, np.int32) for encoding in batch]

    short = iter(encoded([text for text in texts if len(text) <= _PART]))
    for text in texts:
        if len(text) <= _PART:
            yield next(short)
        else:
            parts = list(_parts(text))
            some = (encoded(parts[no : no + 8]) for no in range(0, len(parts), 8))
            yield np.concatenate([ids for part in some for ids in part])


def _parts(text: str) -> Iterator[str]:
    at = 0
    while len(text) - at > _PART and (seam := _SEAM.search(text, at + _PART)):
        yield text[at : seam.start()]
        at = seam.start()
    yield text[at:]


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
