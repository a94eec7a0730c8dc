"""Windows of tokens: no text is lost or repeated, and they are the tokenizer's own windows."""

import itertools

import numpy as np
import pytest
from tokenizers import Tokenizer

from export.tokenizer import WindowTokenizer, clean, padded
from featurestore.errors import FeatureStoreError, ModelError


@pytest.fixture
def tokenizer_json(checkpoint):
    return checkpoint / "tokenizer.json"


@pytest.fixture
def tokenizer(tokenizer_json):
    return Tokenizer.from_file(str(tokenizer_json))


def test_the_windows_of_a_long_note_join_to_its_tokens(tokenizer_json, tokenizer, write_prose):
    text = write_prose(100)
    (windows,) = WindowTokenizer.from_file(tokenizer_json, 16).windows([text])
    tokens = tokenizer.encode(text).ids
    cls, sep = tokens[0], tokens[-1]
    assert all(ids[0] == cls and ids[-1] == sep for ids in windows)
    assert [len(ids) for ids in windows[:-1]] == [16] * (len(windows) - 1)
    assert np.concatenate([ids[1:-1] for ids in windows]).tolist() == tokens[1:-1]


def test_windows_overlap_by_the_stride(tokenizer_json, write_prose):
    (windows,) = WindowTokenizer.from_file(tokenizer_json, 16, 4).windows([write_prose(100)])
    assert all(
        first[-5:-1].tolist() == second[1:5].tolist()
        for first, second in itertools.pairwise(windows)
    )


@pytest.mark.parametrize("stride", [0, 3, 13])
def test_windows_equal_the_tokenizers_truncation_with_overflow(
    tokenizer_json, tokenizer, write_prose, stride
):
    tokenizer.enable_truncation(16, stride=stride)
    texts = [write_prose(words, words) for words in range(1, 60)]
    windows_of_texts = WindowTokenizer.from_file(tokenizer_json, 16, stride).windows(texts)
    for windows, encoding in zip(windows_of_texts, tokenizer.encode_batch(texts), strict=True):
        expected = [encoding, *encoding.overflowing]
        assert [ids.tolist() for ids in windows] == [part.ids for part in expected]


def test_a_very_long_text_has_the_same_tokens_in_parts(tokenizer_json, tokenizer, write_prose):
    # Longer than a part: words, lines without a space, and both, with a short text between them.
    prose = write_prose(40_000)
    texts = [prose, "chest pain", prose.replace(" ", "\n"), prose[:150_000] + "x" * 150_000]
    tokenizer.no_truncation()
    windows_of_texts = WindowTokenizer.from_file(tokenizer_json, 512).windows(texts)
    for windows, text in zip(windows_of_texts, texts, strict=True):
        tokens = tokenizer.encode(text).ids
        assert np.concatenate([ids[1:-1] for ids in windows]).tolist() == tokens[1:-1]


def test_truncation_and_padding_of_the_tokenizer_are_removed(tokenizer, write_prose):
    tokenizer.enable_truncation(8)
    tokenizer.enable_padding(length=8)
    short, long = WindowTokenizer(tokenizer, 16).windows(["chest pain", write_prose(100)])
    assert len(short[0]) < 8
    assert len(long) > 5


@pytest.mark.parametrize(
    ("template", "before", "after"),
    [
        pytest.param("$A [SEP]", 0, 1, id="as T5"),
        pytest.param("[CLS] $A", 1, 0, id="as Llama"),
        pytest.param("[CLS] [SEP] $A [SEP]", 2, 1, id="two before"),
        pytest.param("$A", 0, 0, id="none"),
    ],
)
def test_windows_have_the_special_tokens_of_the_tokenizer(
    tokenizer, write_prose, template, before, after
):
    from tokenizers.processors import TemplateProcessing

    special = [(name, tokenizer.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = TemplateProcessing(single=template, special_tokens=special)
    window_tokenizer = WindowTokenizer(tokenizer, 16, 3)
    assert (len(window_tokenizer.prefix), len(window_tokenizer.suffix)) == (before, after)
    (windows,) = window_tokenizer.windows([write_prose(100)])
    tokenizer.enable_truncation(16, stride=3)
    encoding = tokenizer.encode(write_prose(100))
    assert [ids.tolist() for ids in windows] == [
        part.ids for part in (encoding, *encoding.overflowing)
    ]


def test_types_of_tokens_other_than_0_are_refused(tokenizer):
    from tokenizers.processors import TemplateProcessing

    special = [("[CLS]", tokenizer.token_to_id("[CLS]"))]
    tokenizer.post_processor = TemplateProcessing(single="$A:0 [CLS]:2", special_tokens=special)
    with pytest.raises(ModelError, match="types other than 0, which is not supported"):
        WindowTokenizer(tokenizer, 16)


def test_a_text_without_tokens_has_no_window(tokenizer_json):
    windows = WindowTokenizer.from_file(tokenizer_json, 16).windows(["", " \n", "pain"])
    assert windows[:2] == [[], []]


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
def test_deidentification_marks_are_replaced_by_a_space(text, cleaned):
    assert clean(text, "deid-v1") == cleaned
    assert clean(text, "none") == text


def test_marks_that_are_never_closed_take_linear_time():
    # Searching for the end from each of them would take hours.
    text = "[** " * 500_000
    assert clean(text, "deid-v1") == text


def test_padding_is_masked():
    input_ids, attention_mask = padded([np.array([5, 6, 7]), np.array([5, 7])])
    assert input_ids.tolist() == [[5, 6, 7], [5, 7, 0]]
    assert attention_mask.tolist() == [[1, 1, 1], [1, 1, 0]]


def test_a_stride_that_leaves_no_room_for_text_is_refused(tokenizer_json):
    with pytest.raises(FeatureStoreError, match=r"stride must be from 0 to 13 .* got 14"):
        WindowTokenizer.from_file(tokenizer_json, 16, 14)
