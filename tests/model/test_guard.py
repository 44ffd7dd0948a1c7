"""What a device's failures become, and how the batch is chosen that fits it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from model.batches import best as best_of
from model.batches import choose
from model.guard import DeviceMemoryError, StickyDeviceError, guarded
from model.restorer import DiffusionRestorer, RestorerError
from tests.model.test_diffusion_restorer import made, windows


class Failing:
    """Raises each error in turn, then returns."""

    def __init__(self, *errors: Exception) -> None:
        self.errors, self.calls = list(errors), 0

    def __call__(self) -> str:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return "made"


SHORT = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
LOST = torch.AcceleratorError("CUDA error: an illegal memory access was encountered", 700)


@pytest.mark.parametrize(
    "error",
    [SHORT, MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory"), RuntimeError("CUDA error: out of memory")],
)
def test_short_memory_is_tried_once_more_and_then_said(error: Exception) -> None:
    once, twice = Failing(error), Failing(error, error)
    assert guarded(once, "a batch") == "made"
    assert once.calls == 2
    with pytest.raises(DeviceMemoryError, match=r"a batch does not fit into memory, twice .*smaller recipe.batch"):
        guarded(twice, "a batch")
    assert twice.calls == 2


@pytest.mark.parametrize("error", [LOST, RuntimeError("CUDA error: device-side assert triggered"), RuntimeError("CUBLAS_STATUS_EXECUTION_FAILED")])
def test_a_lost_device_is_not_tried_again(error: Exception) -> None:
    work = Failing(error)
    with pytest.raises(StickyDeviceError, match="failed with a batch; to this process it is lost"):
        guarded(work, "a batch")
    assert work.calls == 1


def test_other_errors_pass_as_they_are() -> None:
    for error in (ValueError("CUDA error"), RuntimeError("shapes do not match"), KeyError("x")):
        with pytest.raises(type(error)) as e:
            guarded(Failing(error), "a batch")
        assert e.value is error


def test_what_no_memory_holds_is_said_so_on_this_very_cpu() -> None:
    with pytest.raises(DeviceMemoryError, match="an exabyte does not fit"):
        guarded(lambda: torch.empty(1 << 58), "an exabyte")


def test_a_batch_that_fits_the_second_time_gives_the_same_voxels(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    window, known, origin = windows(1)
    restorer = made(weights)
    wanted = restorer.restore(window, known, (1, 2), origin)
    whole, failing = DiffusionRestorer._sample, Failing(SHORT)

    def once(self: DiffusionRestorer, *args: object) -> np.ndarray:
        failing()
        return whole(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(DiffusionRestorer, "_sample", once)
    assert np.array_equal(restorer.restore(window, known, (1, 2), origin), wanted)
    assert failing.calls == 2
    failing.errors = [SHORT, SHORT]
    with pytest.raises(MemoryError, match=r"a batch of 1 windows of \(4, 64, 64\) voxels does not fit"):
        restorer.restore(window, known, (1, 2), origin)


def test_a_device_that_is_not_here_is_refused_in_words(weights: Path) -> None:
    assert made(weights).device() in ("cpu", "cuda")
    if not torch.cuda.is_available():
        with pytest.raises(RestorerError, match="torch finds no CUDA device here"):
            made(weights, device="cuda").device()


def test_compiled_is_another_recipe(weights: Path) -> None:
    assert made(weights, compile=True).needs["digest"] != made(weights).needs["digest"]


def test_the_smallest_batch_that_is_nearly_the_fastest_is_chosen() -> None:
    assert choose({1: 1.0, 2: 1.1, 4: 1.5, 8: 2.95, 16: 6.0}) == 4, "8 gives 2 % more"
    assert choose({1: 1.0, 2: 2.0, 4: 4.0}) == 1
    assert choose({}) == 1


def test_batches_are_measured_until_one_does_not_fit() -> None:
    asked = []

    def seconds(count: int) -> float:
        asked.append(count)
        if count > 4:
            raise DeviceMemoryError
        return 1.0

    assert best_of(seconds) == 4
    assert asked == [1, 2, 4, 8]


def test_on_a_cpu_the_batch_stays(weights: Path) -> None:
    assert made(weights, batch=3, device="cpu").best_batch() == 3
