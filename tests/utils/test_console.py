"""What goes wrong in a program is one sentence."""

import pytest
import torch

from dilt_hf.utils.console import reporting_errors


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried"),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    ],
    ids=lambda error: type(error).__name__,
)
def test_too_little_memory_is_one_sentence(error):
    with pytest.raises(SystemExit, match=r"error: memory does not suffice.*--gradient_accumulation_steps"):
        fail(error)


def test_other_errors_are_left_as_they_are():
    with pytest.raises(RuntimeError, match="a bug"):
        fail(RuntimeError("a bug"))


def fail(error):
    with reporting_errors():
        raise error
