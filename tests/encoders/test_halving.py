"""Memory that ends halves the batch and changes nothing else."""

import pytest
import torch

from mmfm.encoders.halving import Halving
from mmfm.errors import ModelError


class Device:
    """Squares numbers, in memory for so many rows; keeps the sizes that were tried."""

    def __init__(self, room, error):
        self.room, self.error, self.tried = room, error, []

    def __call__(self, batch):
        self.tried.append(len(batch))
        if len(batch) > self.room:
            raise self.error
        return batch**2


ERRORS = [
    MemoryError(),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"),
    RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: str(error)[:20])
@pytest.mark.parametrize("room", [1, 2, 3, 5, 7, 8, 100])
def test_the_result_is_that_of_enough_memory(room, error):
    batch = torch.arange(8)
    encode = Halving(Device(room, error), "row")
    assert torch.equal(torch.cat(list(encode(batch))), batch**2)
    assert torch.equal(torch.cat(list(encode(batch[:3]))), batch[:3] ** 2)


def test_a_size_that_fitted_is_kept():
    device = Device(2, MemoryError())
    encode = Halving(device, "row")
    for _ in range(2):
        list(encode(torch.arange(8)))
    assert device.tried == [8, 4, 2, 2, 2, 2, 2, 2, 2, 2]


def test_what_failed_is_let_go_before_the_next_try():
    held, freed = [], []

    class Large:
        def __del__(self):
            freed.append(len(held))

    def encode(batch):
        large = Large()  # noqa: F841
        held.append(len(batch))
        if len(batch) > 2:
            raise MemoryError
        return batch

    list(Halving(encode, "row")(torch.arange(4)))
    assert held == [4, 2, 2]
    assert freed == [1, 2, 3]


def test_below_one_row_the_user_is_told():
    encode = Halving(Device(0, MemoryError()), "picture")
    with pytest.raises(ModelError, match="one picture"):
        list(encode(torch.arange(8)))


def test_other_errors_are_not_touched():
    device = Device(0, RuntimeError("shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="shapes"):
        list(Halving(device, "row")(torch.arange(8)))
    assert device.tried == [8]


def test_real_memory_that_ends_is_recognised():
    def encode(batch):
        return batch.new_empty(2**50) if len(batch) > 1 else batch

    assert len(list(Halving(encode, "row")(torch.arange(4)))) == 4
