"""One file per framework; the only files that import torch, onnx or onnxruntime. Run in worker processes only."""
