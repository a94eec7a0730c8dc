"""What several benchmarks share."""

import time


def timed(work):
    """How long it took, in seconds, and what it gave."""
    started = time.perf_counter()
    answer = work()
    return time.perf_counter() - started, answer


def random_bert(folder, texts):
    """Write a random BERT of Bio_ClinicalBERT's shape, with word pieces learned from the texts.

    Returns the model and its tokenizer.
    """
    import torch
    from transformers import BertConfig, BertModel

    from batch.demo import learn_word_pieces
    from export.to_onnx import quiet_transformers

    quiet_transformers()
    tokenizer = learn_word_pieces(texts, vocabulary=28_996, lowercase=False)
    tokenizer.model_max_length = 512
    torch.manual_seed(0)
    bert = BertModel(BertConfig(vocab_size=28_996)).eval()
    bert.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return bert, tokenizer
