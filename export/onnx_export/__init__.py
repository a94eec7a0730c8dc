"""Export a checkpoint to ONNX: graph, quantization, parity."""
