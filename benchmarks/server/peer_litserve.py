"""The MLP behind LitServe with batching, as its manual writes one.

python peer_litserve.py MODEL PORT FAST_QUEUE
"""

from __future__ import annotations

import sys
from typing import Any

import litserve
import numpy as np
import onnxruntime as ort


class Mlp(litserve.LitAPI):  # type: ignore[misc]  # litserve is not installed where this is checked
    """One ONNX Runtime session in one worker process."""

    path = ""

    def setup(self, device: str) -> None:  # noqa: ARG002 - the name is LitServe's
        """Open it."""
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = ort.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])

    def decode_request(self, request):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN201 - it reads annotations
        """The row, from the same JSON that the other servers get."""
        return np.asarray(request["inputs"][0]["data"], np.float32)

    def batch(self, inputs: list[Any]) -> Any:
        """Batch the rows."""
        return np.stack(inputs)

    def predict(self, x: Any) -> Any:
        """Run it."""
        return self.session.run(None, {"x": x})[0]

    def unbatch(self, output: Any) -> Any:
        """Split the rows."""
        return list(output)

    def encode_response(self, output: Any) -> Any:
        """The answer in the same form as the other servers'."""
        return {"outputs": [{"name": "y", "datatype": "FP32", "shape": [1, 16], "data": output.tolist()}]}


if __name__ == "__main__":
    api = Mlp(max_batch_size=16, batch_timeout=0.001)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1, fast_queue=sys.argv[3] == "1")
    server.run(
        host="127.0.0.1", port=int(sys.argv[2]), generate_client_file=False, num_api_servers=1, log_level="error"
    )
