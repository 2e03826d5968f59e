"""What an exception that mlo did not raise itself means for a step: memory ran out, the machine failed, or the unexpected.

Most libraries have no exception of their own for these, only a sentence. It is read here and nowhere else;
`tests/test_failures.py` holds the messages as the libraries raised them.
"""

from __future__ import annotations

import errno
import os
import re
import socket
import traceback
from types import MappingProxyType
from typing import TYPE_CHECKING

from orchestrator.containers.engine import EngineError
from orchestrator.diagnostics import Diagnostic
from orchestrator.errors import causes_of

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["is_of_network", "is_out_of_memory", "is_transient", "unexpected"]

_SENTENCES: Mapping[str, re.Pattern[str]] = MappingProxyType(
    {
        "PyTorch": re.compile(r"DefaultCPUAllocator: can't allocate memory|CUDA out of memory\. Tried to allocate"),
        "ONNX Runtime": re.compile(r"Failed to allocate memory for requested buffer of size \d+"),
        "TensorFlow": re.compile(r"OOM when allocating tensor|Out of memory while trying to allocate"),
        "LiteRT": re.compile(r"^Failed to allocate ", re.MULTILINE),
        "C++": re.compile(r"std::bad_alloc"),
        "CUDA": re.compile(r"CUDA (?:error|failure \d+): out of memory"),
    }
)
"""Library → what it says when an allocation fails."""

_TRANSIENT = frozenset(
    {
        errno.EAGAIN,
        errno.EBUSY,
        errno.EDQUOT,
        errno.EINTR,
        errno.EIO,
        errno.EMFILE,
        errno.ENFILE,
        errno.ENOBUFS,
        errno.ENOSPC,
        errno.ESTALE,
        errno.ETIMEDOUT,
    }
)
"""What the system reports where something of this moment is in the way: a full disk, too many open files, a failing device."""

_TRANSIENT_SENTENCES = re.compile(
    "|".join(
        (
            *(re.escape(os.strerror(code)) for code in sorted(_TRANSIENT)),
            r"can't start new thread",
            r"CUDA-capable device(?:s are|\(s\) is/are) busy or unavailable",
            r"CUDA driver initialization failed",
            r"CUDA (?:error|failure)[^:\n]*: (?:initialization error|driver shutting down|system not yet initialized)",
            r"CUDA (?:error|failure)[^:\n]*: (?:the launch timed out|uncorrectable (?:ECC|NVLink) error)",
            r"CUDA_ERROR_(?:DEVICE_UNAVAILABLE|NOT_INITIALIZED|DEINITIALIZED|SYSTEM_NOT_READY|ECC_UNCORRECTABLE|LAUNCH_TIMEOUT)",
            r"(?:CUBLAS|CUDNN|CUSPARSE|CUSOLVER)_STATUS_(?:NOT_INITIALIZED|ALLOC_FAILED)",
        )
    )
)
"""The same in sentences: of the C library, which others quote, and of CUDA, whose libraries need memory and a free device."""


def is_transient(error: BaseException) -> bool:
    """Whether the machine failed and not the model, in this exception or in one that led to it: later it may work.

    It answers for a lack of disk space and of files, a failing or busy device, a Docker Engine that does not respond, not for
    memory (`is_out_of_memory`).
    """
    return any(
        isinstance(each, EngineError)
        or (isinstance(each, OSError) and each.errno in _TRANSIENT)
        or _TRANSIENT_SENTENCES.search(str(each))
        for each in causes_of(error)
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed, in this exception or in one that led to it."""
    return any(
        isinstance(each, MemoryError) or any(sentence.search(str(each)) for sentence in _SENTENCES.values())
        for each in causes_of(error)
    )


_UNREACHABLE = frozenset({errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EADDRNOTAVAIL})
_CLIENTS = {"aiohttp", "botocore", "httpcore", "httpx", "huggingface_hub", "requests", "urllib3"}
_OF_NETWORK = re.compile(r"Connect|Resolution|Offline|LocalEntryNotFound|Unreachable")


def is_of_network(error: BaseException) -> bool:
    """Whether a name could not be resolved or an address not be reached, here or in an exception that led to it."""
    return any(
        isinstance(each, (socket.gaierror, ConnectionRefusedError))
        or (isinstance(each, OSError) and each.errno in _UNREACHABLE)
        or (type(each).__module__.partition(".")[0] in _CLIENTS and _OF_NETWORK.search(type(each).__name__))
        for each in causes_of(error)
    )


def unexpected(error: Exception) -> Diagnostic:
    """E401: an exception that no code expected, with the place that raised it."""
    message = (str(error).strip().splitlines() or [""])[0]
    frames = traceback.extract_tb(error.__traceback__)
    return Diagnostic(
        "E401",
        f"{type(error).__name__}: {message}" if message else type(error).__name__,
        cause=f"raised at {frames[-1].filename}:{frames[-1].lineno} in {frames[-1].name}" if frames else "",
    )
