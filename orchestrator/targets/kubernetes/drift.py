"""How objects on a cluster differ from what was deployed, in the fields that the release sets; all others belong to others."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

__all__ = ["compared", "differences", "missing"]

Json = Mapping[str, Any]

_QUANTITY = re.compile(r"^([0-9]+(?:\.[0-9]+)?)(m|k|M|G|T|Ki|Mi|Gi|Ti)?$")
_SCALES = {
    "m": 1e-3,
    "k": 1e3,
    "M": 1e6,
    "G": 1e9,
    "T": 1e12,
    "Ki": 2**10,
    "Mi": 2**20,
    "Gi": 2**30,
    "Ti": 2**40,
}
_LONGEST = 80


def compared(objects: Iterable[Json]) -> tuple[Json, ...]:
    """The objects of a release as they are compared: with an autoscaler, the number of pods is that from which it went on."""
    all_ = tuple(objects)
    scaled = {
        (each["spec"]["scaleTargetRef"]["kind"], each["spec"]["scaleTargetRef"]["name"])
        for each in all_
        if each["kind"] == "HorizontalPodAutoscaler"
    }
    return tuple(
        {**each, "spec": {key: value for key, value in each["spec"].items() if key != "replicas"}}
        if (each["kind"], each["metadata"]["name"]) in scaled
        else each
        for each in all_
    )


def differences(deployed: Json, live: Json) -> Iterator[str]:
    """The fields of one object that are not as deployed: "Deployment digits: spec.replicas is 3, was deployed as 1".

    Args:
        deployed: the object as the release has it.
        live: the same object on the cluster.
    """
    for where, wanted, found in _compared("", deployed, live):
        was = "was not" if wanted is None else f"was deployed as {_shown(wanted)}"
        now = "is gone" if found is None else f"is {_shown(found)}"
        yield f"{_name(deployed)}: {where} {now}, {was}"


def missing(deployed: Json) -> str:
    """For an object that is not on the cluster any more."""
    return f"{_name(deployed)} is gone"


def _compared(where: str, wanted: Any, found: Any) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(wanted, Mapping):
        inner = found if isinstance(found, Mapping) else {}
        for key, value in wanted.items():
            yield from _compared(f"{where}.{key}" if where else str(key), value, inner.get(key))
        return
    if isinstance(wanted, list):
        yield from _compared_lists(where, wanted, found if isinstance(found, list) else [])
        return
    if not _equal(wanted, found):
        yield where, wanted, found


def _compared_lists(where: str, wanted: list[Any], found: list[Any]) -> Iterator[tuple[str, Any, Any]]:
    """Lists of things with names of their own by name, so that others may add to them; all others as a whole."""
    key = _own_name(wanted)
    if key:
        by_name = {each.get(key): each for each in found if isinstance(each, Mapping)}
        for each in wanted:
            place = f"{where}[{each[key]}]"
            if each[key] not in by_name:
                yield place, "present", None
            else:
                yield from _compared(place, each, by_name[each[key]])
        return
    if len(wanted) != len(found):
        yield where, wanted, found or None
        return
    for index, (one, other) in enumerate(zip(wanted, found, strict=True)):
        yield from _compared(f"{where}[{index}]", one, other)


def _own_name(things: list[Any]) -> str:
    """The key by which the things of a list are told apart; empty for none. Several mounts may be of one volume."""
    for key in ("mountPath", "name"):
        names = [each[key] for each in things if isinstance(each, Mapping) and key in each]
        if names and len(set(names)) == len(things):
            return key
    return ""


def _equal(wanted: Any, found: Any) -> bool:
    if wanted == found or (found is None and wanted in (None, "", False, 0)):
        return True
    amounts = _amount(wanted), _amount(found)
    return None not in amounts and amounts[0] == amounts[1]


def _amount(value: Any) -> float | None:
    """The number behind a quantity, which a cluster may write in another unit; None if it is none."""
    found = _QUANTITY.fullmatch(str(value)) if isinstance(value, int | float | str) else None
    return None if found is None else float(found[1]) * _SCALES.get(found[2] or "", 1.0)


def _shown(value: Any) -> str:
    text = str(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def _name(described: Json) -> str:
    return f"{described.get('kind')} {described.get('metadata', {}).get('name')}"
