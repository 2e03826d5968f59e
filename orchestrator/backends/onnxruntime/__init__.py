"""mlo's own ONNX Runtime server as a backend."""
