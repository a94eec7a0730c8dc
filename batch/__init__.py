"""The jobs: embed what is new, train a scorer, score, and the night that does it all."""

import featurestore  # noqa: F401  # turns the libraries' telemetry off before they are imported
from batch.embed import embed_pending
from batch.encoder import Encoder, OnnxEncoder, Windows
from batch.explain import explain, similar
from batch.nightly import nightly
from batch.outcomes import outcomes
from batch.promote import drop_encoder, promote
from batch.score import replay, score
from batch.train import train

__all__ = [
    "Encoder",
    "OnnxEncoder",
    "Windows",
    "drop_encoder",
    "embed_pending",
    "explain",
    "nightly",
    "outcomes",
    "promote",
    "replay",
    "score",
    "similar",
    "train",
]
