"""The MLP behind KServe's SDK server, as its manual writes a model.

python peer_kserve.py MODEL PORT
"""

from __future__ import annotations

import logging
import sys
from typing import Any

import kserve
import onnxruntime as ort


class Mlp(kserve.Model):  # type: ignore[misc]  # kserve is not installed where this is checked
    """One ONNX Runtime session."""

    def __init__(self, path: str) -> None:
        super().__init__("m")
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.ready = True

    async def predict(self, payload: Any, headers: Any = None, response_headers: Any = None) -> Any:  # noqa: ARG002
        """Run the model; the answer is binary if the request is."""
        binary = bool((payload.parameters or {}).get("binary_data_output"))
        y = self.session.run(None, {"x": payload.inputs[0].as_numpy()})[0]
        output = kserve.InferOutput("y", list(y.shape), "FP32")
        output.set_data_from_numpy(y, binary_data=binary)
        return kserve.InferResponse(payload.id or "", self.name, [output])


if __name__ == "__main__":
    logging.disable(logging.INFO)  # a log line for each request would slow it down
    server = kserve.ModelServer(http_port=int(sys.argv[2]), enable_grpc=False, workers=1, enable_latency_logging=False)
    server.start([Mlp(sys.argv[1])])
