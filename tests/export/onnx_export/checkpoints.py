"""Small random checkpoints of many families of encoders, all with the same tokenizer."""

from tests.conftest import prose

TEXTS = [prose(words, seed) for seed, words in enumerate((30, 200, 1, 62, 63, 500, 7))]


def write_checkpoint(folder, family, **settings):
    """Write a random encoder of a family, 64 wide, with 128 positions where it has positions."""
    import torch
    import transformers

    from batch.demo import train_tokenizer

    tokenizer = train_tokenizer(TEXTS, vocabulary=400, lowercase=True)
    torch.manual_seed(0)
    model = transformers.AutoModel.from_config(_config(family, tokenizer, settings))
    with torch.no_grad():  # initial biases and norms are 0 and 1, which would hide a forgotten one
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.03)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _config(family, tokenizer, changed):
    import transformers

    layers = {"num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 128}
    shape = {"vocab_size": len(tokenizer), "hidden_size": 64, **layers}
    shape["pad_token_id"] = padding = tokenizer.pad_token_id
    positions = {"max_position_embeddings": 128}
    from_padding = {"max_position_embeddings": 128 + padding + 1}
    narrow = {"embedding_size": 32}
    t5 = {"vocab_size": len(tokenizer), "d_model": 64, "num_layers": 2, "num_heads": 4}
    relative = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]}
    grouped = {"num_key_value_heads": 2, "bos_token_id": None, "eos_token_id": None}
    tokens = {"bos_token_id": None, "eos_token_id": None, "cls_token_id": 2, "sep_token_id": 3}
    settings = {
        "bert": {**shape, **positions},
        "roberta": {**shape, **from_padding},
        "electra": {**shape, **positions, **narrow},
        "longformer": {**shape, **from_padding, "attention_window": [8, 16, 8]},
        "modernbert": {**shape, **positions, **tokens, "local_attention": 16},
        "distilbert": {
            **{"vocab_size": len(tokenizer), "dim": 64, "n_layers": 3, "n_heads": 4},
            **{"hidden_dim": 128, **positions},
        },
        "mpnet": {**shape, **from_padding},
        "deberta-v2": {**shape, **positions, **relative, "position_buckets": 32},
        "nomic_bert": {**shape, **positions},
        "eurobert": {**shape, **positions, **grouped},
        "albert": {**shape, **positions, **narrow},
        "bart": {
            **{"vocab_size": len(tokenizer), "d_model": 64, "pad_token_id": padding, **positions},
            **{"encoder_layers": 2, "encoder_attention_heads": 4, "encoder_ffn_dim": 128},
            **{"decoder_layers": 1, "decoder_attention_heads": 4, "decoder_ffn_dim": 128},
        },
        "qwen3": {**shape, **positions, **grouped, "head_dim": 16},
        "mobilebert": {
            **{**shape, **positions, **narrow, "intermediate_size": 64},
            **{"intra_bottleneck_size": 32, "num_hidden_layers": 2},
        },
        "fnet": {
            **{"vocab_size": len(tokenizer), "hidden_size": 64, "num_hidden_layers": 2},
            **{"intermediate_size": 128, "max_position_embeddings": 128},
        },
        "t5": {**t5, "d_ff": 128, "d_kv": 16, "pad_token_id": padding},
        "vit": {"hidden_size": 64, **layers},
    }
    return transformers.AutoConfig.for_model(family, **settings[family] | changed)
