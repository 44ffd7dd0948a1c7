"""Methods that need no training, and our own behind the same signature: a case in, its K sections out.

These stand beside every figure. On ssEM at 4-5 nm a blurred average wins PSNR and optical flow wins membranes, so a
method that is compared with neither has been compared with nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from scipy import ndimage

from model.diffusion import Condition, sample
from model.network import REFERENCE_NM, AnisoUNet3D
from model.noise import normal
from model.sampler import Sampler
from model.scenes import Case, Floats, Image, Method

BLUR = 3.0  # pixels; wins PSNR here and destroys 99 % of the detail


def baselines() -> dict[str, Method]:
    """Name -> method, simplest first. `constant` is what every gain in dB is a gain over."""
    return {"constant": constant, "copy": copy, "average": average, "average+blur": blurred, "cubic": cubic,
            "flow": flow}  # fmt: skip


def constant(case: Case) -> Floats:
    """The mean grey of the neighbours, never the truth's. (K, H, W)"""
    return np.full(case.truth.shape, np.mean([side.mean() for side in case.pair]), np.float32)


def copy(case: Case) -> Floats:
    """The nearer neighbour; the one before where both are as near. (K, H, W)"""
    before, after = case.pair
    return np.stack([before if t <= 0.5 else after for t in case.places])


def average(case: Case) -> Floats:
    """Linear interpolation along z. (K, H, W)"""
    before, after = case.pair
    return np.stack([_mixed(before, after, t) for t in case.places])


def blurred(case: Case) -> Floats:
    """The average under a Gaussian of `BLUR` pixels in the plane. (K, H, W)"""
    return np.asarray(ndimage.gaussian_filter(average(case), (0, BLUR, BLUR)), np.float32)


def cubic(case: Case) -> Floats:
    """Lagrange's cubic through two sections a side at their true z; the average where a side has only one. (K, H, W)"""
    (a, b), depth = case.targets, len(case.sections)
    if a < 2 or depth - b < 2:
        return average(case)
    at = np.array([a - 2, a - 1, b, b + 1], float)
    planes = [np.tensordot(lagrange(at, z), case.sections[at.astype(int)], 1) for z in range(a, b)]
    return np.asarray(np.clip(planes, 0, 1), np.float32)


def lagrange(at: Sequence[float] | np.ndarray[tuple[int], np.dtype[np.float64]], z: float) -> Floats:
    """Weights (N,) of samples at the places `at` in the polynomial through them, at `z`."""
    return np.array([np.prod([(z - q) / (p - q) for q in at if q != p]) for p in at], np.float32)


def flow(case: Case) -> Floats:
    """DIS optical flow between the neighbours; each moved to the target's place, then mixed linearly. (K, H, W)"""
    before, after = (side.astype(np.float32) for side in case.pair)
    onward, back = _field(after, before), _field(before, after)
    return np.stack([_mixed(_moved(before, onward, t), _moved(after, back, 1 - t), t) for t in case.places])


def _field(seen: Image, source: Image) -> Floats:
    """(H, W, 2) = (x, y) pixels: seen(p) looks like source(p + field(p)). OpenCV's DIS at its medium preset."""
    dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    a, b = ((image * 255).astype(np.uint8) for image in (seen, source))
    return np.asarray(dis.calc(a, b, np.zeros((*a.shape, 2), np.float32)))


def _moved(image: Image, field: Floats, share: float) -> Floats:
    """`image` moved by `share` of the field; the field is read at the target's pixel, as is usual (backward warp)."""
    y, x = np.mgrid[: image.shape[0], : image.shape[1]].astype(np.float32)
    x, y = x + np.float32(share) * field[..., 0], y + np.float32(share) * field[..., 1]
    return np.asarray(cv2.remap(image, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE))


def _mixed(before: Floats, after: Floats, t: float) -> Floats:
    return np.asarray((1 - t) * before + t * after, np.float32)


def ours(network: AnisoUNet3D, sampler: Sampler, seed: int = 0) -> Method:
    """Our restorer without tiles: whole sections in one window, known pixels of a damaged section included.

    Runs where the network is, in bfloat16. The noise is that of the pipeline: a function of global (z, y, x).
    """

    def restore(case: Case) -> Floats:
        device = next(network.parameters()).device
        a, b = case.targets
        z, y, x = case.origin
        known = torch.from_numpy(case.known.astype(np.float32))[None, None].to(device)  # (1, 1, D, H, W)
        window = torch.from_numpy(case.sections * np.float32(2) - np.float32(1))[None, None].to(device)
        size = torch.tensor([[case.voxel_nm[0] / REFERENCE_NM[0], case.voxel_nm[2] / REFERENCE_NM[1]]]).log2()
        condition = Condition(window * known, known, case.targets, size.to(device))
        shape = (b - a, *case.truth.shape[1:])

        def noise(draw: int) -> torch.Tensor:
            return torch.from_numpy(normal((z + a, y, x), shape, seed=seed, draw=draw))[None, None].to(device)

        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16):
            out = sample(network, condition, noise, sampler)  # (1, 1, K, H, W)
        return np.asarray(((out[0, 0].float() + 1) / 2).clamp(0, 1).cpu().numpy())

    return restore
