"""From a checkpoint to a model folder: fine-tuning and export (these two need torch)."""

import featurestore  # noqa: F401  # turns the libraries' telemetry off before they are imported
