"""The ONNX Runtime server that ships in images: Open Inference Protocol v2 over one ONNX model.

It imports nothing else from this project, so the folder can be copied as a separate package.
"""

import os

__all__ = ["VERSION"]

# ONNX Runtime reads this once, on import. Otherwise it writes an identifier of the machine to the user's cache and sends
# telemetry to its vendor; its function to disable events would be called too late.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

VERSION = "0.1.0"
"""The version that `GET /v2` reports; changes with the project's version."""
