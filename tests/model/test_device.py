"""Where torch computes: refused in words, and one GPU for every process of a machine."""

from __future__ import annotations

import pytest
import torch

from model.device import DeviceError, choose, resolve, use_threads


@pytest.mark.parametrize(
    ("name", "gpus", "rank", "expected"),
    [
        ("cpu", 4, 0, "cpu"), ("auto", 0, 3, "cpu"), ("auto", 1, 0, "cuda:0"), ("cuda", 1, 0, "cuda:0"),
        ("cuda", 4, 3, "cuda:3"), ("auto", 4, 2, "cuda:2"), ("cuda:1", 2, 0, "cuda:1"),
    ],
)  # fmt: skip
def test_every_process_gets_a_device_of_its_own(name: str, gpus: int, rank: int, expected: str) -> None:
    assert choose(name, gpus, rank) == expected


@pytest.mark.parametrize(
    ("name", "gpus", "rank", "words"),
    [
        ("cuda", 0, 0, "device cuda: torch finds no CUDA device here; use cpu"),
        ("cuda", 2, 2, "process 2 of this machine has no GPU of its own: there are 2, numbered from 0; start fewer"),
        ("cuda:7", 2, 0, "device cuda:7 has no GPU of its own: there are 2"),
    ],
)
def test_a_device_that_is_not_here_is_refused(name: str, gpus: int, rank: int, words: str) -> None:
    with pytest.raises(DeviceError, match=words):
        choose(name, gpus, rank)


@pytest.mark.parametrize("name", ["foo", "", "cuda:", "cuda:x", "CPU", "cuda:-1"])
def test_a_name_that_means_nothing_is_refused(name: str) -> None:
    with pytest.raises(DeviceError, match="is unknown; the devices are cpu, cuda, cuda:1, or auto"):
        resolve(name)


def test_here_it_resolves_to_what_there_is() -> None:
    assert resolve("cpu", {}) == "cpu"
    assert resolve("auto", {}) == ("cuda:0" if torch.cuda.is_available() else "cpu")


def test_threads_are_counted_from_one() -> None:
    with pytest.raises(DeviceError, match="--threads -2 must be 0"):
        use_threads(-2)
    use_threads(0)
    use_threads(1)
    assert torch.get_num_threads() == 1
