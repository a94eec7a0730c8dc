"""Loading checkpoints of transformers."""

import pytest

from export.checkpoint import load_checkpoint
from featurestore.errors import FeatureStoreError


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
