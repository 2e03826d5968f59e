"""ONNX files: reading, checking, converting, quantizing and running them."""
