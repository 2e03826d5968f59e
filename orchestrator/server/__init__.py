"""The ONNX Runtime server that ships in images: Open Inference Protocol v2 over one ONNX model.

It imports nothing else of this project, so the folder can be copied out as a package of its own.
"""

__all__ = ["VERSION"]

VERSION = "0.1.0"
"""What `GET /v2` reports; moves with the project's version."""
