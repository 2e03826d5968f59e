"""Finds the line with the reason in the text of a library's exception.

Frameworks wrap the reason in what they were doing: a layer's whole configuration, a stack of calls, the place in their own
source, advice for their developers. `tests/raised.json` holds texts as the libraries raised them.
"""

from __future__ import annotations

import re

__all__ = ["headline", "headline_with_type"]

_LONGEST = 400
_MOST_READ = 4000
"""Characters at the beginning and at the end of a text in which the reason is looked for."""

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_NODE = re.compile(r"\{\{(?:function_node|node) [^}]*\}\}\s*|\s*\[Op:\w+\](?: name:.*)?")
_ABOUT_THE_WAY = re.compile(
    r"Graph execution error:?$|in user code:$|Exception encountered when calling |Error when deserializing class |Detected at node "
    r"|\[torch\.onnx\] |Exception from \S+|Check '.*' failed at \S+|While validating |FrontEnd API failed |Model wasn't fully converted"
)
"""Lines that say what was being done, not what went wrong."""

_WAYS = (
    # Keras quotes the layer's configuration before the reason, and sometimes behind it.
    re.compile(
        r"Exception encountered: (?!.*Exception encountered: )(?P<reason>.+?)(?: Full object config: |\n|$)", re.DOTALL
    ),
    re.compile(r"Exception encountered when calling [^\n]*\n\n(?P<reason>.+?)\n\nArguments received by ", re.DOTALL),
    # TensorFlow: the line before the node, or behind the calls of traced code.
    re.compile(r"\n(?P<reason>[^\n]+)\n\s*\[\[\{\{node "),
    re.compile(r"in user code:\n.*\n[ \t]+\w+(?:Error|Exception): (?P<reason>[^\n]+)", re.DOTALL),
    # PyTorch
    re.compile(r"Traceback of TorchScript.*\n(?:[\w.]+(?:Error|Exception): )?(?P<reason>[^\n]+)\s*$", re.DOTALL),
    re.compile(r"## Exception summary\s+<class '[^']+'>: (?P<reason>[^\n]+)"),
    re.compile(r"WeightsUnpickler error:\s*(?P<reason>[^\n]+?)(?: Please use `torch|\n|$)"),
    re.compile(r"Error\(s\) in loading state_dict for [^\n]*\n(?P<reason>.+)$", re.DOTALL),
)


def headline(error: BaseException, skip: re.Pattern[str] | None = None) -> str:
    """The reason in an exception's text, in one line of at most 400 characters; its type if it has no text.

    Args:
        error: the exception.
        skip: matches further lines that say nothing of the reason, at their start.
    """
    text = str(error)
    if len(text) > 2 * _MOST_READ:  # a model's own text could be of any length
        text = f"{text[:_MOST_READ]}\n{text[-_MOST_READ:]}"
    text = _COLOUR.sub("", text)
    found = _of_onnx_runtime(text) or _of_openvino(text)
    if not found:
        match = next((match for way in _WAYS if (match := way.search(text))), None)
        found = match["reason"] if match else _first_line(text, skip)
    found = " ".join(_NODE.sub("", found).split()).removeprefix("-- ").removesuffix(":") or type(error).__name__
    return found if len(found) <= _LONGEST else found[: _LONGEST - 3] + "..."


def headline_with_type(error: BaseException) -> str:
    """`ValueError: the reason`; the type alone if there is no text."""
    name, text = type(error).__name__, headline(error)
    return name if text == name else f"{name}: {text}"


def _first_line(text: str, skip: re.Pattern[str] | None) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    telling = (line for line in lines if not _ABOUT_THE_WAY.match(line) and not (skip and skip.match(line)))
    return next(telling, lines[0] if lines else "")


_ORT = re.compile(r"\[ONNXRuntimeError\] : \d+ : \w+ : (?P<rest>.+)", re.DOTALL)
_ORT_NODE = re.compile(
    r"Non-zero status code returned while running (?P<operator>\w+) node\. Name:'(?P<node>[^']*)' Status Message: (?P<rest>.+)",
    re.DOTALL,
)
_SOURCE_LINE = re.compile(r"\S*\w\.(?:cc|cpp|h|hpp):\d+ ")
_CONDITION = re.compile(r"[^.]{1,300}? was false\. ")


def _of_onnx_runtime(text: str) -> str:
    """`Gather node 'ids': indices element out of data bounds, ...`, without the place in ONNX Runtime's own source."""
    match = _ORT.search(text)
    if match is None:
        return ""
    rest, node = match["rest"], ""
    if ran := _ORT_NODE.search(rest):
        rest = ran["rest"]
        node = f"{ran['operator']} node" + (f" '{ran['node']}': " if ran["node"] else ": ")
    if place := _SOURCE_LINE.match(rest):
        rest = _CONDITION.sub("", _behind_signature(rest[place.end() :]), count=1)
    return node + rest


def _behind_signature(text: str) -> str:
    """The text behind the C++ function it begins with: `Compute`, or `void ns::Class::f(const std::map<int>&, int) const`."""
    words = re.match(r"(?:[\w:<>~*&]+ )*?[\w:~]+(?:<[^(]*>)?\(", text)
    if words is None or "::" not in words[0]:
        return text.partition(" ")[2]
    depth = 0
    for place, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if letter == ")" and not depth:
            return text[place + 1 :].strip().removeprefix("const ")
    return text


def _of_openvino(text: str) -> str:
    """What follows the places in OpenVINO's source and the nodes that it was looking at."""
    if not text.startswith("Exception from src/"):
        return ""
    lines = [line.strip() for line in text.splitlines()]
    return next((line for line in lines if line and not _places_of_openvino(line)), "")


_places_of_openvino = re.compile(
    r"Exception from |Check '.*' failed at |While validating |FrontEnd API failed |Model wasn't fully converted|Summary:"
    r"|-- \S+ with a message:"
).match
