"""What libraries raise where memory ran out or the machine failed is recognised, with the messages as they raised them."""

from __future__ import annotations

import errno
import os

import pytest

from orchestrator.steps.context import StepError, refuse_on
from orchestrator.steps.failures import is_out_of_memory, is_transient, unexpected

RAISED = {
    "PyTorch": "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to "
    "allocate 140737488355328 bytes. Error code 12 (Cannot allocate memory)",
    "TorchScript": "The following operation failed in the TorchScript interpreter.\nTraceback of TorchScript (most recent "
    "call last):\nRuntimeError: [enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: "
    "you tried to allocate 70368744177664 bytes. Error code 12 (Cannot allocate memory)",
    "ONNX Runtime's arena": "[ONNXRuntimeError] : 1 : FAIL : Non-zero status code returned while running Expand node. Name:'' "
    "Status Message: /onnxruntime_src/onnxruntime/core/framework/bfc_arena.cc:360 void* "
    "onnxruntime::BFCArena::AllocateRawInternal(size_t, bool, onnxruntime::Stream*) Failed to allocate memory for requested "
    "buffer of size 70368744177664\n",
    "ONNX Runtime without an arena": "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Non-zero status code returned while "
    "running Expand node. Name:'' Status Message: std::bad_alloc",
    "TensorFlow": "{{function_node __inference_<lambda>_10}} OOM when allocating tensor with shape[17592186044416] and type "
    "float on /job:localhost/replica:0/task:0/device:CPU:0 by allocator mklcpu\n\t [[{{node Fill}}]]",
}
OTHERS = (
    "no kernel for `allocate`",
    "[ONNXRuntimeError] : 2 : INVALID_ARGUMENT : Got invalid dimensions for input: x",
    "the memory of the network is too small for 12 steps",
)


@pytest.mark.parametrize("message", RAISED.values(), ids=RAISED.keys())
def test_a_failed_allocation_is_recognised_whatever_its_type(message: str) -> None:
    assert is_out_of_memory(RuntimeError(message))


@pytest.mark.parametrize("message", OTHERS)
def test_other_failures_are_not_taken_for_it(message: str) -> None:
    assert not is_out_of_memory(RuntimeError(message))


def test_it_is_recognised_behind_what_wraps_it() -> None:
    wrapped = StepError("E321", "the model fails")
    wrapped.__cause__ = RuntimeError(RAISED["TorchScript"])
    assert is_out_of_memory(wrapped)


def test_it_is_no_refusal_since_another_machine_may_have_more() -> None:
    with pytest.raises(MemoryError, match="OOM when"), refuse_on(Exception, "E420", "it does not load"):
        raise RuntimeError(RAISED["TensorFlow"])


TRANSIENT = {
    "PyTorch, a busy GPU": "CUDA error: CUDA-capable device(s) is/are busy or unavailable\nCUDA kernel errors might be "
    "asynchronously reported at some other API call, so the stacktrace below might be incorrect.",
    "PyTorch, an older driver's text": "CUDA error: all CUDA-capable devices are busy or unavailable",
    "PyTorch, no driver": "CUDA driver initialization failed, you might not have a CUDA gpu.",
    "ONNX Runtime": "CUDA failure 46: CUDA-capable device(s) is/are busy or unavailable ; GPU=0 ; hostname=h ; "
    "file=/onnxruntime_src/onnxruntime/core/providers/cuda/cuda_execution_provider.cc ; line=280",
    "cuBLAS": "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`",
    "TensorFlow": "failed call to cuInit: CUDA_ERROR_SYSTEM_NOT_READY: system not yet initialized",
    "HDF5": "Can't synchronously read data (file read failed: time = Sat, errno = 5, error message = 'Input/output error')",
    "a full disk": "[enforce fail at inline_container.cc:820] . PytorchStreamWriter failed: No space left on device",
    "threads": "can't start new thread",
}


@pytest.mark.parametrize("message", TRANSIENT.values(), ids=TRANSIENT.keys())
def test_a_failure_of_the_machine_is_no_refusal_since_it_may_pass(message: str) -> None:
    raised = RuntimeError(message)
    with pytest.raises(RuntimeError) as caught, refuse_on(Exception, "E426", "the variant does not run"):
        raise raised
    assert caught.value is raised


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EMFILE, errno.EIO])
def test_neither_is_one_that_the_system_reports(code: int) -> None:
    with pytest.raises(OSError, match=os.strerror(code)), refuse_on(Exception, "E420", "it does not load"):
        raise OSError(code, os.strerror(code))
    wrapped = StepError("E321", "the model fails")
    wrapped.__cause__ = OSError(code, os.strerror(code))
    assert is_transient(wrapped)


@pytest.mark.parametrize(
    "error",
    [
        *(RuntimeError(message) for message in OTHERS),
        RuntimeError("CUDA error: an illegal memory access was encountered"),
        RuntimeError("CUDA error: no kernel image is available for execution on the device"),
        FileNotFoundError(errno.ENOENT, "No such file or directory"),
        OSError(errno.EINVAL, "Invalid argument"),
    ],
    ids=str,
)
def test_what_would_happen_again_stays_a_refusal(error: Exception) -> None:
    with pytest.raises(StepError), refuse_on(Exception, "E420", "it does not load"):
        raise error


def test_what_nobody_expected_says_where_it_was_raised() -> None:
    with pytest.raises(ValueError, match="invalid literal") as caught:
        int("first\nsecond")
    found = unexpected(caught.value)
    assert (found.code, found.message) == (
        "E401",
        "ValueError: invalid literal for int() with base 10: 'first\\nsecond'",
    )
    assert "test_failures.py" in found.cause
    assert unexpected(KeyError()).message == "KeyError"
