"""The ONNX Runtime server that ships in images: Open Inference Protocol v2 over one ONNX model.

It imports nothing else of this project, so the folder can be copied out as a package of its own.
"""

import os

__all__ = ["VERSION"]

# ONNX Runtime reads this once, while it is imported. Without it, it writes an identifier of the machine to the user's cache
# and sends what is run to its maker; its call that turns events off comes too late for both.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

VERSION = "0.1.0"
"""What `GET /v2` reports; moves with the project's version."""
