"""From a checkpoint to a model folder: fine-tuning and ONNX export (both need torch)."""

import featurestore  # noqa: F401  # disables telemetry of libraries before they are imported
