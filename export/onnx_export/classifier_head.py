"""The classification head of a fine-tuned checkpoint, as plain arrays in the model folder."""

from pathlib import Path
from typing import Any

import numpy as np

from export.checkpoint import load_checkpoint


def write_classifier_head(checkpoint: str | Path, config: Any, file: Path) -> bool:
    """Write the two layers that classify [CLS] to an .npz file; return False without such a head.

    The arrays are dense (dim, dim) and dense_bias (dim,), the name of the activation (tanh or
    relu), out (2, dim) and out_bias (2,); row 1 of `out` is the positive class. Only heads of two
    classes are written.
    """
    import transformers

    (architecture, *_) = config.architectures or [""]
    if not architecture.endswith("ForSequenceClassification") or config.num_labels != 2:
        return False
    model, _ = load_checkpoint(checkpoint, transformers.AutoModelForSequenceClassification)
    dense, activation, out = _layers(model)
    layers = {"dense": dense.weight, "dense_bias": dense.bias, "out": out.weight}
    layers |= {"out_bias": out.bias}
    with file.open("wb") as stream:
        np.savez(
            stream,
            activation=np.array(activation),
            **{name: layer.detach().float().numpy() for name, layer in layers.items()},
        )
    return True


def _layers(model: Any) -> tuple[Any, str, Any]:
    """Return the dense layer, the activation and the output layer of the head."""
    family = model.config.model_type
    if family == "roberta":
        return model.classifier.dense, "tanh", model.classifier.out_proj
    if family == "distilbert":
        return model.pre_classifier, "relu", model.classifier
    return model.bert.pooler.dense, "tanh", model.classifier
