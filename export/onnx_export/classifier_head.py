"""The classification head of a checkpoint, as plain arrays beside the exported model."""

from pathlib import Path
from typing import Any

import numpy as np


def write_classifier_head(checkpoint: str | Path, config: Any, file: Path) -> bool:
    """Write what a fine-tuned checkpoint makes of [CLS]: two layers, (.npz); False without a head.

    dense and dense_bias, the activation between (tanh or relu), out and out_bias: (2, dim), the
    second row for those who return. Of classifiers of two classes only.
    """
    import transformers

    from export.checkpoint import load_checkpoint

    (kind, *_) = config.architectures or [""]
    if not kind.endswith("ForSequenceClassification") or config.num_labels != 2:
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
    family = model.config.model_type
    if family == "roberta":
        return model.classifier.dense, "tanh", model.classifier.out_proj
    if family == "distilbert":
        return model.pre_classifier, "relu", model.classifier
    return model.bert.pooler.dense, "tanh", model.classifier
