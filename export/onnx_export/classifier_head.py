"""The classification head of a fine-tuned checkpoint, as plain arrays in the model folder."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from export.checkpoint import load_checkpoint

# How each family activates its dense layer, and where its dense layer and output layer are.
_ROBERTA = ("tanh", lambda model: (model.classifier.dense, model.classifier.out_proj))
_LAYERS: dict[str, tuple[str, Callable[[Any], tuple[Any, Any]]]] = {
    "bert": ("tanh", lambda model: (model.bert.pooler.dense, model.classifier)),
    "distilbert": ("relu", lambda model: (model.pre_classifier, model.classifier)),
    **dict.fromkeys(("roberta", "xlm-roberta", "camembert", "longformer"), _ROBERTA),
}


def write_classifier_head(checkpoint: str | Path, config: Any, file: Path) -> bool:
    """Write the two layers that classify [CLS] to an .npz file; return False without such a head.

    The arrays are dense (dim, dim) and dense_bias (dim,), the name of the activation (tanh or
    relu), out (2, dim) and out_bias (2,); row 1 of `out` is the positive class. Only heads of two
    classes are written, and only of the families in _LAYERS.
    """
    import transformers

    (architecture, *_) = config.architectures or [""]
    if not architecture.endswith("ForSequenceClassification") or config.num_labels != 2:
        return False
    if config.model_type not in _LAYERS:
        return False
    model, _ = load_checkpoint(checkpoint, transformers.AutoModelForSequenceClassification)
    activation, layers_of = _LAYERS[config.model_type]
    dense, out = layers_of(model)
    layers = {"dense": dense.weight, "dense_bias": dense.bias, "out": out.weight}
    layers |= {"out_bias": out.bias}
    with file.open("wb") as stream:
        np.savez(
            stream,
            activation=np.array(activation),
            **{name: layer.detach().float().numpy() for name, layer in layers.items()},
        )
    return True
