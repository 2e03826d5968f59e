"""Whether a candidate's server meets the service level, and by how much it misses it."""

from __future__ import annotations

from orchestrator.artifacts.decision import Distance, LevelStatus
from orchestrator.artifacts.measurement import NotMeasured, bytes_text, rate_text
from orchestrator.artifacts.server_report import P99Level, ServerMeasurement, ThroughputLevel, WireResult

__all__ = [
    "call_text",
    "distance",
    "distance_text",
    "faster_wire",
    "milliseconds",
    "service_level",
    "was_disturbed",
    "wire_is_the_cause",
]

_LATE = "the load generator sent its requests late"
_OTHERS = "other processes used the CPUs meanwhile"
_LIMITED = "the load generator could not send clearly more"


def service_level(server: ServerMeasurement) -> LevelStatus:
    """`met` if every part is met; `none` if the spec sets no service level."""
    p99, throughput = server.slo.p99, server.slo.throughput
    if p99 is None and throughput is None:
        return "none"
    statuses = {_throughput_status(throughput), "met" if p99 is None else p99.status}
    if "missed" in statuses:
        return "missed"
    return "inconclusive" if "inconclusive" in statuses else "met"


def _throughput_status(level: ThroughputLevel | None) -> LevelStatus:
    if level is None or level.met:
        return "met"
    return "inconclusive" if level.generator_late or level.generator_limited or level.disturbed else "missed"


def was_disturbed(server: ServerMeasurement) -> bool:
    """Whether a miss is not proven because of other processes on the machine."""
    p99, throughput = server.slo.p99, server.slo.throughput
    return (p99 is not None and p99.disturbed) or (throughput is not None and throughput.disturbed)


def distance(server: ServerMeasurement) -> Distance:
    """The distance of a server from the service level."""
    p99, throughput, loop = server.slo.p99, server.slo.throughput, server.on_schedule
    return Distance(
        p99_seconds=None if p99 is None or loop is None else loop.p99 - p99.limit,
        throughput=None if throughput is None else throughput.wanted - throughput.reached,
    )


def distance_text(server: ServerMeasurement) -> str:
    """The distance in words, such as `p99 31.2 ms at 200/s, 11.2 ms over the limit of 20 ms`."""
    parts = []
    if server.slo.p99 is not None:
        parts.append(_p99_text(server, server.slo.p99))
    throughput = server.slo.throughput
    if throughput is not None and not throughput.met:
        why = _LATE if throughput.generator_late else _LIMITED if throughput.generator_limited else ""
        why = why or (_OTHERS if throughput.disturbed else "")
        unproven = f", not proven: {why}" if why else ""
        parts.append(f"{rate_text(throughput.reached)}/s of {rate_text(throughput.wanted)}/s{unproven}")
    return "; ".join(parts)


def _p99_text(server: ServerMeasurement, level: P99Level) -> str:
    if isinstance(server.open_loop, NotMeasured):
        return f"p99 not measured: {server.open_loop.reason}"
    reached, limit = server.open_loop.p99, level.limit
    side = "over" if reached > limit else "below"
    text = (
        f"p99 {milliseconds(reached)} at {rate_text(server.open_loop.rate)}/s, "
        f"{milliseconds(abs(reached - limit))} {side} the limit of {milliseconds(limit)}"
    )
    if server.refused:
        what = ", ".join(f"{count} with {reason}" for reason, count in sorted(server.refused.items()))
        text += f"; it refused {sum(server.refused.values())} of {level.samples} requests as too busy: {what}"
    if level.generator_late:
        return f"{text}, not proven: {_LATE}"
    if level.disturbed:
        return f"{text}, not proven: {_others_text(server)}"
    if level.status == "inconclusive":
        return f"{text}, not proven: at least {level.samples_wanted} more samples are needed"
    if level.status == "missed" and reached <= limit:
        text += f", but {level.over} of {level.samples} requests exceeded it"
    if level.status == "missed" and wire_is_the_cause(server):
        text += f"; {call_text(server.over)}: the rest is the server's own work, transfer and coding of {bytes_text(server.over.request_bytes)}"
        if (best := faster_wire(server)) is not None:
            text += f"; {call_text(best)}"
    return text


def _others_text(server: ServerMeasurement) -> str:
    """Such as `other processes used 48 % of the CPUs meanwhile, also when it was measured again (8 times)`."""
    if (found := server.others) is None:
        return _OTHERS
    times = "once" if found.again == 1 else f"{found.again} times"
    again = f", also when it was measured again ({times})" if found.again else ""
    return f"other processes used {100 * found.cpus:.0f} % of the CPUs meanwhile{again}"


def faster_wire(server: ServerMeasurement) -> WireResult | None:
    """The fastest wire, if it saves at least half of what is around the model with the one that was measured."""
    best = min((each for each in server.wires if each.call is not None), key=lambda each: each.call or 0.0)
    around, others = best.around, server.over.around
    if best is server.over or around is None or others is None or around > others / 2:
        return None
    return best


def wire_is_the_cause(server: ServerMeasurement) -> bool:
    """Whether a call takes long because of the wire: the model takes less than half of it, and would meet the limit of the p99."""
    over, level = server.over, server.slo.p99
    if over.around is None or over.model is None or level is None:
        return False
    return over.around > over.model and over.model < level.limit


def call_text(over: WireResult) -> str:
    """Such as `a call takes 0.62 ms with raw tensors, of which the model takes 0.4 ms`."""
    if over.call is None:
        return f"with {over.name}, it refuses this model's requests ({over.refused})"
    model = "" if over.model is None else f", of which the model takes {milliseconds(min(over.model, over.call))}"
    return f"a call takes {milliseconds(over.call)} with {over.name}{model}"


def milliseconds(seconds: float) -> str:
    """Such as `8.1 ms`; three significant digits."""
    return f"{seconds * 1e3:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"
