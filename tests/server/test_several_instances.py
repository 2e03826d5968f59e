"""Several instances behind one queue: they run at the same time, and one that hangs or breaks does not take the rest down."""

from __future__ import annotations

import asyncio
import http.client
import threading
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper

from orchestrator.server.batcher import Batcher, Limits
from orchestrator.server.datatypes import Array
from orchestrator.server.errors import RequestError
from orchestrator.server.instance import Instance, Run
from tests.server import asked
from tests.server.conftest import FOREVER, Running, Start, add_model, signature, spin, spin_model, write_server

pytestmark = pytest.mark.processes

SINGLY = Limits(max_rows=1, max_delay_s=0.0, queue_rows=64)


class Device:
    """A model on a device that can be broken and repaired; it fails on negative numbers on every device."""

    def __init__(self, *, broken: bool = False) -> None:
        self.broken = broken
        self.calls = 0

    def __call__(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        self.calls += 1
        if self.broken:
            raise RequestError(500, "CUDA failure 719: unspecified launch failure", reason="failed")
        if (inputs["x"] < 0).any():
            raise RequestError(500, "a negative number", reason="failed")
        return {"y": inputs["x"] * 2}


def one(value: float) -> dict[str, Array]:
    return {"x": np.full((1, 2), value, np.float32)}


def around(runs: list[Run], scenario: Callable[[Batcher], Coroutine[Any, Any, None]], limits: Limits = SINGLY) -> None:
    async def limited() -> None:
        async with asyncio.timeout(60):
            batcher = Batcher(runs, limits)
            await scenario(batcher)
            batcher.close(30)

    asyncio.run(limited())


def ask(batcher: Batcher, value: float, timeout_s: float = 30) -> asyncio.Future[Mapping[str, Array]]:
    """The answer to a request of one row."""
    return asked.ask(batcher, one(value), timeout_s).future


async def rested(instance: Instance) -> None:
    """Wait until its pause is over."""
    assert instance.wake is not None
    await asyncio.sleep(instance.wake.when() - asyncio.get_running_loop().time() + 0.02)
    assert not instance.resting


def test_requests_of_a_broken_device_are_answered_by_another() -> None:
    broken, sound = Device(broken=True), Device()

    async def scenario(batcher: Batcher) -> None:
        for value in range(20):
            answer = await ask(batcher, value)
            assert answer["y"].tolist() == [[value * 2] * 2]
        # It was tried, and then left alone for a second.
        assert broken.calls <= 2
        assert [instance.resting for instance in batcher.instances] == [False, True]

    around([sound, broken], scenario)


def test_a_batch_of_a_broken_device_is_answered_by_another() -> None:
    async def scenario(batcher: Batcher) -> None:
        answers = await asyncio.gather(*(ask(batcher, value) for value in range(8)))
        assert [answer["y"][0, 0] for answer in answers] == [value * 2 for value in range(8)]
        assert batcher.queued_rows == 0

    around([Device(), Device(broken=True)], scenario, Limits(max_rows=8, max_delay_s=0, queue_rows=64))


def test_a_device_that_works_again_is_used_again() -> None:
    mended, other = Device(broken=True), Device()

    async def scenario(batcher: Batcher) -> None:
        await ask(batcher, 1)
        mended.broken = False
        await rested(batcher.instances[1])
        before = mended.calls
        await ask(batcher, 1)
        assert mended.calls == before + 1
        assert batcher.instances[1].rests == 0

    around([other, mended], scenario)


def test_a_device_that_stays_broken_is_paused_longer_and_longer() -> None:
    broken = Device(broken=True)
    rests: list[int] = []

    async def scenario(batcher: Batcher) -> None:
        instance = batcher.instances[1]
        for _ in range(2):
            await ask(batcher, 1)
            rests.append(instance.rests)
            await rested(instance)
        assert broken.calls == 2

    around([Device(), broken], scenario)
    assert rests == [1, 2]


def test_a_request_that_fails_everywhere_gets_its_error_and_no_device_is_paused() -> None:
    devices = [Device(), Device()]

    async def scenario(batcher: Batcher) -> None:
        for _ in range(3):
            with pytest.raises(RequestError, match="a negative number"):
                await ask(batcher, -1)
            assert not any(instance.resting for instance in batcher.instances)
            assert (await ask(batcher, 1))["y"][0, 0] == 2

    around(list(devices), scenario)
    assert sum(device.calls for device in devices) == 3 * (2 + 1)


def test_where_all_devices_are_broken_every_request_gets_its_error_at_once() -> None:
    async def scenario(batcher: Batcher) -> None:
        answers = await asyncio.gather(*(ask(batcher, value) for value in range(10)), return_exceptions=True)
        assert {answer.status for answer in answers if isinstance(answer, RequestError)} == {500}
        assert len(answers) == 10
        assert batcher.queued_rows == 0

    around([Device(broken=True), Device(broken=True)], scenario)


def test_a_request_that_expires_while_it_waits_for_another_device_is_answered_in_time() -> None:
    held = threading.Event()

    def hangs(inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        assert held.wait(30)
        return {"y": inputs["x"]}

    async def scenario(batcher: Batcher) -> None:
        first = ask(batcher, 1)
        await asyncio.sleep(0.05)  # it hangs on the instance that is taken first
        late = ask(batcher, 2, timeout_s=0.2)
        with pytest.raises(RequestError) as raised:
            await late
        assert raised.value.status == 504
        assert batcher.queued_rows == 0
        held.set()
        await first

    around([Device(broken=True), hangs], scenario)


def post(server: Running, body: str) -> int:
    return server.ask("POST", "/v2/models/m/infer", body).status


def loads(server: Running) -> dict[str, dict[str, float]]:
    """Metric → instance → value."""
    found: dict[str, dict[str, float]] = {}
    for line in server.ask("GET", "/metrics").body.decode().splitlines():
        if line.startswith("mlo_instance_"):
            name, _, rest = line.partition("{")
            labels, _, value = rest.partition("} ")
            assert 'device="cpu"' in labels
            found.setdefault(name, {})[labels.partition('instance="')[2][:1]] = float(value)
    return found


@pytest.mark.frameworks
def test_an_instance_that_hangs_does_not_keep_another_from_answering(tmp_path: Path, start: Start) -> None:
    server = start(spin_model(tmp_path, instances=2, threads=2))
    hangs = http.client.HTTPConnection("127.0.0.1", server.port)
    hangs.request("POST", "/v2/models/m/infer", spin(FOREVER))
    # More turns than it takes the first to get going; all of them are answered by the other instance.
    assert [post(server, spin(100)) for _ in range(20)] == [200] * 20
    assert server.ask("GET", "/v2/health/ready").status == 200
    assert sum(loads(server)["mlo_instance_calls_total"].values()) == 20
    hangs.close()


@pytest.mark.frameworks
def test_instances_of_a_real_model_share_the_requests_and_answer_correctly(tmp_path: Path, start: Start) -> None:
    server = start(add_model(tmp_path, instances=3, threads=3, max_batch_size=2))
    wrong: list[Any] = []

    def client(number: int) -> None:
        for turn in range(40):
            value = number * 1000.0 + turn
            inputs = [{"name": n, "datatype": "FP32", "shape": [1, 3], "data": [value, 1, 2]} for n in "xy"]
            answer = server.infer({"inputs": inputs})
            if answer.status != 200 or answer.json["outputs"][0]["data"] != [value * 2, 2, 4]:
                wrong.append(answer)

    clients = [threading.Thread(target=client, args=(number,)) for number in range(8)]
    for thread in clients:
        thread.start()
    for thread in clients:
        thread.join()
    assert not wrong
    found = loads(server)
    assert sum(found["mlo_instance_rows_total"].values()) == 8 * 40
    assert all(seconds >= 0 for seconds in found["mlo_instance_seconds_total"].values())
    assert set(found["mlo_instance_resting"].values()) == {0}
    assert set(found["mlo_instance_calls_total"]) == {"0", "1", "2"}


@pytest.mark.frameworks
def test_a_request_that_the_model_fails_on_leaves_every_instance_at_work(tmp_path: Path, start: Start) -> None:
    sig = signature({"x": ("float32", [2, 3]), "to": ("int64", [2])}, {"y": ("float32", [2, 3])}, {}, batch=None)
    node = helper.make_node("Reshape", ["x", "to"], ["y"])  # to zeros, at which it is warmed up, means as it is
    server = start(write_server(tmp_path, [node], sig, instances=2, threads=2))

    def reshape(rows: int, columns: int) -> int:
        x = {"name": "x", "datatype": "FP32", "shape": [2, 3], "data": [0.0] * 6}
        to = {"name": "to", "datatype": "INT64", "shape": [2], "data": [rows, columns]}
        return server.infer({"inputs": [x, to]}).status

    assert [reshape(3, 2), reshape(4, 4), reshape(6, 1), reshape(5, 5)] == [200, 500, 200, 500]
    found = loads(server)
    assert sum(found["mlo_instance_calls_total"].values()) == 2 * (1 + 2)
    assert set(found["mlo_instance_resting"].values()) == {0}
