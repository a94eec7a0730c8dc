"""From text to windows: nothing is lost, nothing stands twice."""

import itertools

import numpy as np
import pytest
from tokenizers import Tokenizer

from export.tokenizer import clean, load_tokenizer, make_window_tokenizer, padded, windows
from featurestore.errors import FeatureStoreError


@pytest.fixture
def tokenizer(checkpoint):
    return make_window_tokenizer(Tokenizer.from_file(str(checkpoint / "tokenizer.json")), 16, 0)


def test_a_long_note_is_cut_and_put_together_again(tokenizer, checkpoint, write_prose):
    text = write_prose(100)
    (cut,) = windows(tokenizer, [text])
    whole = Tokenizer.from_file(str(checkpoint / "tokenizer.json")).encode(text).ids
    cls, sep = whole[0], whole[-1]
    assert all(ids[0] == cls and ids[-1] == sep for ids in cut)
    assert [len(ids) for ids in cut[:-1]] == [16] * (len(cut) - 1)
    assert np.concatenate([ids[1:-1] for ids in cut]).tolist() == whole[1:-1]


def test_windows_overlap_by_the_stride(checkpoint, write_prose):
    tokenizer = load_tokenizer(checkpoint / "tokenizer.json", 16, 4)
    (cut,) = windows(tokenizer, [write_prose(100)])
    assert all(
        before[-5:-1].tolist() == after[1:5].tolist() for before, after in itertools.pairwise(cut)
    )


@pytest.mark.parametrize("stride", [0, 3, 13])
def test_windows_are_those_of_the_tokenizers_own_truncation(checkpoint, write_prose, stride):
    theirs = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    theirs.enable_truncation(16, stride=stride)
    window_tokenizer = load_tokenizer(checkpoint / "tokenizer.json", 16, stride)
    texts = [write_prose(words, words) for words in range(1, 60)]
    for ours, whole in zip(
        windows(window_tokenizer, texts), theirs.encode_batch(texts), strict=True
    ):
        parts = [whole, *whole.overflowing]
        assert [ids.tolist() for ids in ours] == [part.ids for part in parts]


def test_a_very_long_text_is_tokenized_in_parts_and_nothing_shows(checkpoint, write_prose):
    # Longer than the parts, of words, of lines without a space, and with both among short texts.
    prose = write_prose(40_000)
    texts = [prose, "chest pain", prose.replace(" ", "\n"), prose[:150_000] + "x" * 150_000]
    tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    tokenizer.no_truncation()
    cut = windows(load_tokenizer(checkpoint / "tokenizer.json", 512, 0), texts)
    for ours, text in zip(cut, texts, strict=True):
        whole = tokenizer.encode(text).ids
        assert np.concatenate([ids[1:-1] for ids in ours]).tolist() == whole[1:-1]


def test_a_truncation_and_padding_that_a_tokenizer_brings_are_replaced(checkpoint, write_prose):
    tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    tokenizer.enable_truncation(8)
    tokenizer.enable_padding(length=8)
    short, long = windows(make_window_tokenizer(tokenizer, 16, 0), ["chest pain", write_prose(100)])
    assert len(short[0]) < 8
    assert len(long) > 5


def test_a_text_without_a_word_has_no_window(tokenizer):
    assert windows(tokenizer, ["", " \n", "pain"])[:2] == [[], []]


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("seen on [**2101-10-20**] by Dr [**First Name8 (NamePattern2) **]", "seen on   by Dr  "),
        ("a mark over [**two\nlines**] goes", "a mark over   goes"),
        ("MIMIC-IV's ___ too", "MIMIC-IV's   too"),
        ("an open [** mark stays [** open", "an open [** mark stays [** open"),
        ("[**[**twice**]**]", " **]"),
        ("but **bold** and [brackets] and a_b stay", "but **bold** and [brackets] and a_b stay"),
    ],
)
def test_marks_of_deidentification_are_blanked(text, cleaned):
    assert clean(text, "deid-v1") == cleaned
    assert clean(text, "none") == text


def test_marks_that_are_never_closed_cost_no_more_than_their_length():
    # Looking for an end from every one of them would take hours.
    text = "[** " * 500_000
    assert clean(text, "deid-v1") == text


def test_padding_is_masked():
    input_ids, attention_mask = padded([np.array([5, 6, 7]), np.array([5, 7])])
    assert input_ids.tolist() == [[5, 6, 7], [5, 7, 0]]
    assert attention_mask.tolist() == [[1, 1, 1], [1, 1, 0]]


def test_a_stride_that_leaves_no_room(checkpoint):
    with pytest.raises(FeatureStoreError, match="a stride of 14 does not fit windows of 16"):
        load_tokenizer(checkpoint / "tokenizer.json", 16, 14)
