"""The restorer on a real GPU. Needs torch, NumPy, SciPy, safetensors and pytest; neither dask nor zarr:

    PYTHONPATH=. python -m pytest -c /dev/null --rootdir . tests/gpu
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import model.restorer
from model.guard import DeviceMemoryError
from model.restorer import DiffusionRestorer

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device here")
VNC, EDGE, GREY = (47.5, 4.6, 4.6), 128, 1 / 255
ROOT = Path(__file__).parents[2]


def windows(count: int = 2) -> tuple[np.ndarray, np.ndarray, tuple[int, int], np.ndarray]:
    """Waves that drift from section to section; the third of five is missing."""
    z, y, x = np.ogrid[0:5, 0:EDGE, 0:EDGE]
    waves = np.sin(0.21 * y + 0.5 * z) * np.cos(0.17 * x - 0.3 * z) + np.sin(0.07 * (x + y) + z)
    window = np.repeat((0.5 + 0.22 * waves).astype(np.float32)[None], count, 0)  # (B, 5, E, E)
    known = np.ones(window.shape, bool)
    known[:, 2] = False
    return window, known, (2, 3), np.array([[7, 512 * i, 0] for i in range(count)], np.int64)


def restored(**options: object) -> np.ndarray:
    """The missing sections (B, E, E) by a restorer of its own."""
    return DiffusionRestorer(voxel_nm=VNC, **options).restore(*windows())[:, 2]  # type: ignore[arg-type]


@pytest.fixture
def in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model.restorer, "_has_bfloat16", lambda device: False)


@pytest.mark.usefixtures("in_float32")
def test_in_float32_the_gpu_agrees_with_the_cpu_within_a_grey_level() -> None:
    assert np.abs(restored(device="cuda") - restored(device="cpu")).max() <= GREY


def test_in_bfloat16_it_agrees_on_average(monkeypatch: pytest.MonkeyPatch) -> None:
    fast = restored(device="cuda")
    monkeypatch.setattr(model.restorer, "_has_bfloat16", lambda device: False)
    off = np.abs(fast - restored(device="cpu"))
    assert off.mean() <= GREY, f"mean {off.mean() * 255:.3f}, most {off.max() * 255:.2f} grey levels"


def test_runs_agree_bit_for_bit() -> None:
    assert np.array_equal(restored(device="cuda", batch=2), restored(device="cuda", batch=2))


def test_an_items_bits_do_not_depend_on_its_batch() -> None:
    window, known, targets, origin = windows()
    restorer = DiffusionRestorer(voxel_nm=VNC, device="cuda", batch=2)
    together = restorer.restore(window, known, targets, origin)
    alone = restorer.restore(window[1:], known[1:], targets, origin[1:])
    assert np.array_equal(together[1:], alone)


@pytest.fixture
def little_memory() -> Iterator[None]:
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(0.02)
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)


@pytest.mark.usefixtures("little_memory")
def test_a_batch_that_does_not_fit_is_said_and_the_process_can_tell() -> None:
    restorer = DiffusionRestorer(voxel_nm=VNC, device="cuda", batch=256)
    with pytest.raises(DeviceMemoryError, match="a batch of 256 windows .* does not fit into memory, twice"):
        restorer.restore(*windows())
    torch.cuda.set_per_process_memory_fraction(1.0)
    assert np.isfinite(restored(device="cuda")).all()


STICKY = """
import numpy as np, torch
from model.guard import StickyDeviceError
from model.restorer import DiffusionRestorer
from tests.gpu.test_restorer_on_cuda import VNC, windows
restorer = DiffusionRestorer(voxel_nm=VNC, device="cuda")
restorer.restore(*windows())
try:
    torch.zeros(4, device="cuda")[torch.tensor([9], device="cuda")].cpu()
except RuntimeError as e:
    print(type(e).__name__)
try:
    restorer.restore(*windows())
except StickyDeviceError as e:
    print("lost:", e)
"""


def test_a_lost_device_is_told_from_other_errors() -> None:
    """In a process of its own: after a device-side assert the context is gone."""
    done = subprocess.run([sys.executable, "-c", STICKY], cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert "lost: the device failed with a batch of 1 windows" in done.stdout, done.stdout + done.stderr[-2000:]


def test_the_best_batch_is_measured() -> None:
    restorer = DiffusionRestorer(voxel_nm=VNC, device="cuda")
    best = restorer.best_batch()
    assert best in (1, 2, 4, 8, 16, 32, 64)
    assert restorer.needs["batch"] == 1, "the recipe decides, not the measurement"


def test_compiled_it_stays_within_a_grey_level_on_average() -> None:
    off = np.abs(restored(device="cuda", compile=True) - restored(device="cuda"))
    assert off.mean() <= GREY
