"""The jobs: embed what is new, train a scorer, score."""

import featurestore  # noqa: F401  # turns the libraries' telemetry off before they are imported
from batch.embed import embed_pending
from batch.encoder import Encoder, OnnxEncoder, Windows
from batch.score import score
from batch.train import promote, train

__all__ = ["Encoder", "OnnxEncoder", "Windows", "embed_pending", "promote", "score", "train"]
