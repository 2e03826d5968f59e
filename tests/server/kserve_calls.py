"""What `test_kserve_client` asks through KServe's clients; run by the interpreter that has kserve, prints JSON.

python kserve_calls.py HTTP_PORT GRPC_PORT
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import numpy as np
from kserve import InferInput, InferOutput, InferRequest  # type: ignore[import-not-found,unused-ignore]
from kserve.inference_client import (  # type: ignore[import-not-found,unused-ignore]
    InferenceGRPCClient,
    InferenceRESTClient,
    RESTConfig,
)


def request(*, binary: bool) -> Any:
    x = InferInput("x", [1, 3], "FP32")
    x.set_data_from_numpy(np.array([[1, 2, 3]], np.float32), binary_data=binary)
    y = InferInput("y", [1, 3], "FP32")
    y.set_data_from_numpy(np.array([[10, 20, 30]], np.float32), binary_data=binary)
    wanted = InferOutput("z", [], "FP32", parameters={"binary_data": binary}) if binary else None
    return InferRequest("m", [x, y], request_id="k", request_outputs=[wanted] if wanted else [])


def told(answer: Any) -> dict[str, Any]:
    return {"id": answer.id, "model": answer.model_name, "z": answer.outputs[0].as_numpy().tolist()}


async def rest(port: int) -> dict[str, Any]:
    base = f"http://127.0.0.1:{port}"
    async with InferenceRESTClient(RESTConfig(protocol="v2", retries=0)) as client:
        found: dict[str, Any] = {
            "live": await client.is_server_live(base),
            "ready": await client.is_server_ready(base),
            "model ready": await client.is_model_ready(base, "m"),
            "json": told(await client.infer(base, request(binary=False), model_name="m")),
            "binary": told(await client.infer(base, request(binary=True), model_name="m")),
        }
        try:
            await client.infer(base, request(binary=False), model_name="other")
        except Exception as error:  # noqa: BLE001 - which one it is, is what is told
            found["unknown model"] = f"{type(error).__name__}: {error}"
    return found


async def grpc(port: int) -> dict[str, Any]:
    async with InferenceGRPCClient(f"127.0.0.1:{port}") as client:
        return {
            "live": await client.is_server_live(),
            "ready": await client.is_server_ready(),
            "model ready": await client.is_model_ready("m"),
            "typed": told(await client.infer(request(binary=False))),
            "raw": told(await client.infer(request(binary=True))),
        }


async def main() -> None:
    http_port, grpc_port = map(int, sys.argv[1:])
    print(json.dumps({"rest": await rest(http_port), "grpc": await grpc(grpc_port)}))


asyncio.run(main())
