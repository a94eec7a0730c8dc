"""Loading checkpoints of transformers."""

import json
import shutil

import pytest

from export.checkpoint import SentenceSettings, load_checkpoint, lowercase_first, sentence_settings
from featurestore.errors import FeatureStoreError, ModelError


def test_a_missing_or_empty_checkpoint_is_refused(tmp_path):
    import transformers

    (tmp_path / "empty").mkdir()
    for wrong in (tmp_path / "nowhere", tmp_path / "empty"):
        with pytest.raises(FeatureStoreError, match=r"nowhere does not exist|hf download"):
            load_checkpoint(wrong, transformers.AutoModel)


def test_a_cased_vocabulary_without_tokenizer_settings_keeps_case(tmp_path):
    # As Bio_ClinicalBERT on the hub: a vocab.txt and no tokenizer settings.
    import transformers
    from transformers import BertConfig, BertModel

    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "heart", "Heart"]
    vocabulary += [f"Word{number}" for number in range(1_001)]
    shape = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
    )
    BertModel(shape).save_pretrained(tmp_path)
    (tmp_path / "vocab.txt").write_text("\n".join(vocabulary))
    _, tokenizer = load_checkpoint(tmp_path, transformers.AutoModel)
    assert tokenizer.backend_tokenizer.encode("Heart heart").tokens[1:-1] == ["Heart", "heart"]


@pytest.fixture
def small(checkpoint, tmp_path):
    """Return a function that copies the small BERT, its weights renamed, and returns the copy."""
    from safetensors.torch import load_file, save_file

    def copy(renamed):
        folder = shutil.copytree(checkpoint, tmp_path / "changed")
        weights = load_file(folder / "model.safetensors")
        weights = {renamed(name): weight for name, weight in weights.items()}
        save_file(weights, folder / "model.safetensors", {"format": "pt"})
        return folder

    return copy


def test_a_checkpoint_that_lacks_weights_of_its_encoder_is_refused(small):
    # transformers would take random ones, and only warn.
    import transformers

    folder = small(lambda name: name.replace("layer.1.", "layers.1."))
    for auto in (transformers.AutoModel, transformers.AutoModelForSequenceClassification):
        with pytest.raises(ModelError, match=r"lacks 16 weights of its encoder, as .*layer\.1\."):
            load_checkpoint(folder, auto)


def test_a_pooler_and_a_head_may_be_missing(small):
    import transformers

    folder = small(lambda name: name.replace("pooler", "others"))
    for auto in (transformers.AutoModel, transformers.AutoModelForSequenceClassification):
        load_checkpoint(folder, auto)


def test_positions_that_transformers_no_longer_computes_are_refused(small):
    import transformers

    folder = small(str)
    file = folder / "config.json"
    config = json.loads(file.read_text()) | {"position_embedding_type": "relative_key_query"}
    file.write_text(json.dumps(config))
    with pytest.raises(ModelError, match="positions of type relative_key_query"):
        load_checkpoint(folder, transformers.AutoModel)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_weights_that_are_stored_in_half_precision_are_computed_in_float32(
    checkpoint, tmp_path, dtype
):
    import torch
    import transformers

    model, tokenizer = load_checkpoint(checkpoint, transformers.AutoModel)
    model.to(getattr(torch, dtype)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    loaded, _ = load_checkpoint(tmp_path, transformers.AutoModel)
    assert {weight.dtype for weight in loaded.parameters()} == {torch.float32}


def test_a_tokenizer_that_is_not_a_fast_one_is_refused(small):
    import transformers

    folder = small(str)
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "CanineTokenizer"}')
    with pytest.raises(ModelError, match="has a CanineTokenizer, which is not a fast tokenizer"):
        load_checkpoint(folder, transformers.AutoModel)


@pytest.fixture
def sentence_folder(tmp_path):
    """Write the settings of a sentence-transformers folder; return the folder."""

    def write(pooling, *others, encoder=None, general=None, path=""):
        kinds = ["Transformer", "Pooling", *others]
        modules = [
            {
                "path": path if kind == "Transformer" else kind,
                "type": f"sentence_transformers.{kind}",
            }
            for kind in kinds
        ]
        (tmp_path / "Pooling").mkdir()
        for name, content in {
            "modules.json": modules,
            "Pooling/config.json": pooling,
            "sentence_bert_config.json": encoder or {},
            "config_sentence_transformers.json": general or {},
        }.items():
            (tmp_path / name).write_text(json.dumps(content))
        return tmp_path

    return write


MEAN = {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}


@pytest.mark.parametrize(
    ("pooling", "expected"),
    [
        pytest.param(MEAN, "mean", id="as before sentence-transformers 6"),
        pytest.param({"pooling_mode": "cls"}, "cls", id="as sentence-transformers 6 writes it"),
        pytest.param({"pooling_mode": ["mean"]}, "mean", id="a list of one"),
    ],
)
def test_the_pooling_of_a_sentence_transformers_folder(sentence_folder, pooling, expected):
    settings = sentence_settings(sentence_folder(pooling))
    assert settings == SentenceSettings(expected, None, False)


def test_normalize_window_length_and_lower_casing_are_read(sentence_folder):
    encoder = {"max_seq_length": 256, "do_lower_case": True}
    folder = sentence_folder(MEAN, "Normalize", encoder=encoder)
    assert sentence_settings(folder) == SentenceSettings("mean+normalize", 256, True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param(
            {"pooling": {"pooling_mode_max_tokens": True}}, "pools by max, which is not", id="max"
        ),
        pytest.param(
            {"pooling": {"pooling_mode": "weightedmean"}}, "pools by weightedmean", id="weighted"
        ),
        pytest.param(
            {"pooling": MEAN | {"pooling_mode_cls_token": True}},
            "pools by (mean and cls|cls and mean)",
            id="several",
        ),
        pytest.param({"pooling": {}}, "pools by nothing", id="none"),
        pytest.param({"others": ["Dense"]}, "made of Transformer, Pooling, Dense", id="a layer"),
        pytest.param(
            {"general": {"prompts": {"query": "search: "}, "default_prompt_name": "query"}},
            "puts a prompt before each text",
            id="a prompt",
        ),
        pytest.param(
            {"encoder": {"processing_kwargs": {"text": {"max_length": 77}}}},
            "sets processing_kwargs of its encoder",
            id="a length of its own",
        ),
        pytest.param(
            {"encoder": {"modality_config": {"text": {"method_output_name": "pooler_output"}}}},
            "sets method_output_name of its encoder",
            id="another output",
        ),
        pytest.param({"path": "0_BERT"}, "keeps its encoder in 0_BERT", id="an inner folder"),
    ],
)
def test_a_sentence_transformers_folder_that_does_more_is_refused(
    sentence_folder, changes, message
):
    changes = {"pooling": MEAN, "others": [], **changes}
    folder = sentence_folder(changes.pop("pooling"), *changes.pop("others"), **changes)
    with pytest.raises(FeatureStoreError, match=message) as error:
        sentence_settings(folder)
    assert "--pooling cls or --pooling mean" in str(error.value)


def test_settings_as_sentence_transformers_6_writes_them(sentence_folder):
    encoder = {
        "transformer_task": "feature-extraction",
        "modality_config": {
            "text": {"method": "forward", "method_output_name": "last_hidden_state"}
        },
        "module_output_name": "token_embeddings",
    }
    folder = sentence_folder({"pooling_mode": "mean"}, encoder=encoder)
    assert sentence_settings(folder) == SentenceSettings("mean", None, False)


@pytest.mark.parametrize("modules", [[{"type": "sentence_transformers.Transformer"}], ["x"], 7])
def test_damaged_modules_are_named(tmp_path, modules):
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(FeatureStoreError, match=r"modules.json of .* is damaged"):
        sentence_settings(tmp_path)


def test_other_folders_have_no_such_settings(checkpoint):
    assert sentence_settings(checkpoint) is None


def test_a_hub_that_cannot_be_asked_for_the_pooling_is_an_error(monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(FeatureStoreError, match=r"the hub cannot be asked for modules.json of a/b"):
        sentence_settings("a/b")


def test_text_is_lower_cased_before_the_tokenizer_normalizes_it(checkpoint):
    from tokenizers import Tokenizer
    from tokenizers.normalizers import BertNormalizer

    tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    tokenizer.normalizer = BertNormalizer(lowercase=False)
    upper = tokenizer.encode("CHEST PAIN").ids
    lowercase_first(tokenizer)
    assert tokenizer.encode("CHEST PAIN").ids == tokenizer.encode("chest pain").ids != upper
