"""DiffusionRestorer: arrays in, arrays out. What the pipeline calls, and all that it knows of this package.

    restorer = DiffusionRestorer(voxel_nm=(47.5, 4.6, 4.6))
    restored = restorer.restore(window, known, targets=(2, 3), origin=origin)

Importing this module and constructing a restorer cost milliseconds: torch is imported at the first `restore`.

RestorerError (ValueError)      the restorer cannot do what was asked of it
    VoxelSizeError              the volume's voxel size is outside what the weights were trained on
and from guard, where the device fails: DeviceMemoryError (MemoryError), StickyDeviceError (RuntimeError).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, fields
from difflib import get_close_matches
from typing import TYPE_CHECKING, cast

import numpy as np
import numpy.typing as npt

from model import batches, guard
from model.checkpoint import Card, check_weights, load_network, locate, read_card
from model.device import DeviceError, resolve
from model.noise import normal
from model.sampler import Sampler, ensemble
from model.spread import spread

if TYPE_CHECKING:
    from torch import Tensor

    from model.network import AnisoUNet3D

VERSION = 4  # of the code between the weights and a voxel; raise it whenever a voxel can change
# For estimates only. Measured with the shipped weights, 4 steps, batch 1, one quiet CPU thread (a tile of 256 px, halo
# included, takes 4.9 s); a GPU is far faster.
MPX_S = 0.013
BLIND = 4  # evaluations in bfloat16 take as long as the first one, which is in float32
MEMORY_BYTES = 600 << 20
_SAMPLER_OPTIONS = tuple(f.name for f in fields(Sampler))
_OPTIONS = ("weights", "seed", "voxel_nm", "batch", "threads", "device", "compile", *_SAMPLER_OPTIONS)

Floats = npt.NDArray[np.float32]


class RestorerError(ValueError):
    """The restorer cannot do what was asked of it."""


class VoxelSizeError(RestorerError):
    """The volume's voxel size is outside what the weights were trained on."""


class DiffusionRestorer:
    """Restores runs of missing or damaged sections from the clean sections either side and from their own known
    pixels.
    """

    def __init__(
        self,
        *,
        voxel_nm: tuple[float, float, float],  # (z, y, x) of the level that is restored
        weights: str = "default",  # name of shipped weights, or path of a .safetensors file with its card
        seed: int = 0,  # of the noise; the same seed gives the same voxels
        steps: int | None = None,  # network evaluations; None = the card's (4); 1 = posterior mean: blurred, best PSNR
        batch: int = 1,  # windows the network sees at once; smaller batches are padded to it
        threads: int = 0,  # CPU threads of torch; 0 = leave torch's default
        device: str = "auto",  # "auto" = CUDA if there is one, else the CPU
        compile: bool = False,  # by torch.compile: minutes at the start; not measured to be faster; moves the last bits
        **options: float | str | bool,  # any other field of sampler.Sampler
    ) -> None:
        unknown = sorted(set(options) - set(_SAMPLER_OPTIONS))
        if unknown:
            near = get_close_matches(unknown[0], _OPTIONS, n=1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            raise RestorerError(f"unknown restorer option {unknown[0]}{hint}; the options are {', '.join(_OPTIONS)}")
        if batch < 1 or threads < 0 or (steps is not None and steps < 1):
            raise RestorerError(f"batch {batch} and steps {steps} must be at least 1, threads {threads} at least 0")
        if not 0 <= seed < 2**32:
            raise RestorerError(f"seed {seed} is outside 0 .. 4294967295, a word of the noise: choose a smaller one")
        self._path = locate(weights)
        self._card = read_card(self._path)
        _check_voxel(self._card, voxel_nm)
        self._voxel_nm, self._seed, self._batch = voxel_nm, seed, batch
        self._threads, self._device, self._compile = threads, device, compile
        try:
            self._sampler = Sampler(**{**self._card.sampler, **options, **({} if steps is None else {"steps": steps})})
        except (TypeError, ValueError) as error:
            raise RestorerError(f"the sampler refuses its settings: {error}") from error
        self._network: AnisoUNet3D | None = None

    @property
    def needs(self) -> dict[str, object]:
        """What the pipeline must provide: context, tile, halo, stride, batch; and the digest that a recipe binds to."""
        c, work = self._card, _work(self._sampler)
        return {
            "name": f"diffusion/{c.name}", "digest": self._digest(), "context": c.context, "max_gap": c.max_gap,
            "tile": c.tile, "halo": c.halo, "stride": c.stride, "batch": self._batch,
            "one_sided": False, "spread": True,
            "voxel_nm_min": list(c.voxel_nm_min), "voxel_nm_max": list(c.voxel_nm_max),
            "memory_bytes": MEMORY_BYTES, "mpx_s": round(MPX_S * (BLIND + 3) / work, 6),
            "draw_cost": round(_work(ensemble(self._sampler)) / work, 4),
        }  # fmt: skip

    def _digest(self) -> str:
        """sha256 over the weights, the code's version and the sampler's settings."""
        compiled = ["compile"] if self._compile else []  # left out where it is off: older digests stay
        text = json.dumps([self._card.sha256, VERSION, asdict(self._sampler), *compiled], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def check_weights(self) -> None:
        """Raises CheckpointError where the weights file is not the one that the digest is of. Reads all of it."""
        check_weights(self._path, self._card)

    def device(self) -> str:
        """The kind of device that it computes on here, cpu or cuda. Loads the network; raises RestorerError."""
        network = guard.guarded(self._loaded, "loading the network")
        return next(network.parameters()).device.type

    def best_batch(self) -> int:
        """Windows in one call for the best throughput on this GPU, measured in a minute; as it was made on a CPU.

        For the time when a run is planned: the batch is part of the recipe.
        """
        if self.device() == "cpu":
            return self._batch
        card, kept = self._card, self._batch
        edge, depth = card.tile + 2 * card.halo, card.max_gap + 2 * card.context
        window = np.full((1, depth, edge, edge), 0.5, np.float32)
        known, targets = np.ones(window.shape, bool), (card.context, card.context + card.max_gap)
        known[:, targets[0] : targets[1]] = False

        def seconds(count: int) -> float:
            self._batch = count
            whole = [np.repeat(part, count, 0) for part in (window, known, np.zeros((1, 3), np.int64))]
            return batches.median_seconds(lambda: self.restore(whole[0], whole[1], targets, whole[2]))

        try:
            return batches.best(seconds)
        finally:
            self._batch = kept

    def restore(
        self, window: Floats, known: npt.NDArray[np.bool_], targets: tuple[int, int], origin: npt.NDArray[np.int64]
    ) -> Floats:
        """Predict every voxel of the target sections; the other sections are returned as they came.

        window (B, D, H, W) float32 in [0, 1], unknown voxels arbitrary; known (B, D, H, W) bool; targets half-open
        along D; origin (B, 3) int64, global (z, y, x) of each window's first voxel. An item's result depends on that
        item alone.
        """
        _check_window(self._card, window, known, targets, origin)
        result = np.array(window, np.float32)
        for part in self._batches(len(window)):
            drawn = self._draw(window[part], known[part], targets, origin[part], self._sampler, 0)
            result[part, targets[0] : targets[1]] = drawn
        return result

    def restore_with_spread(
        self,
        window: Floats,
        known: npt.NDArray[np.bool_],
        targets: tuple[int, int],
        origin: npt.NDArray[np.int64],
        draws: int,
    ) -> tuple[Floats, Floats]:
        """What `restore` gives, bit for bit, and how far `draws` samples lie apart.

        The spread (B, D, H, W), in the units of the window, is the standard deviation over an ensemble whose members
        differ in their noise alone (`sampler.ensemble`), smoothed (`spread.spread`), times the card's `spread_scale`,
        which makes it as wide as the errors on validation rows are. Zero where nothing was drawn.
        """
        if draws < 2:
            raise RestorerError(f"{draws} draws have no spread: ask for 2 or more (8 is a good number)")
        result, wide = self.restore(window, known, targets, origin), np.zeros(window.shape, np.float32)
        for part in self._batches(len(window)):
            members = np.stack([
                self._draw(window[part], known[part], targets, origin[part], ensemble(self._sampler), stream)
                for stream in range(1, draws + 1)
            ])  # (draws, B, K, H, W)  # fmt: skip
            inside = ~known[part, targets[0] : targets[1]]
            wide[part, targets[0] : targets[1]] = self._card.spread_scale * spread(members, inside)
        return result, wide

    def _batches(self, count: int) -> list[slice]:
        return [slice(start, min(start + self._batch, count)) for start in range(0, count, self._batch)]

    def _draw(
        self,
        window: Floats,
        known: npt.NDArray[np.bool_],
        targets: tuple[int, int],
        origin: npt.NDArray[np.int64],
        sampler: Sampler,
        stream: int,
    ) -> Floats:
        """The targets (B, K, H, W) of one batch, padded to the fixed size because the batch size changes the last bits
        of a convolution. `stream` tells the noise of ensemble members apart.
        """
        count, missing = len(window), self._batch - len(window)
        clean = np.where(known, window, np.float32(0.5))  # poison in unknown voxels, NaN included, ends here
        clean = np.concatenate([clean, np.full((missing, *window.shape[1:]), 0.5, np.float32)])
        shown = np.concatenate([known, np.zeros((missing, *window.shape[1:]), bool)])
        corners = [tuple(o) for o in origin] + [(0, 0, 0)] * missing

        def noise(draw: int) -> Floats:
            size = (targets[1] - targets[0], *window.shape[2:])
            return np.stack([
                normal((z + targets[0], y, x), size, seed=self._seed, stream=stream, draw=draw) for z, y, x in corners
            ])  # fmt: skip

        what = f"a batch of {len(clean)} windows of {clean.shape[1:]} voxels"
        return guard.guarded(lambda: self._sample(clean, shown, targets, noise, sampler), what)[:count]

    def _sample(
        self,
        clean: Floats,
        known: npt.NDArray[np.bool_],
        targets: tuple[int, int],
        noise: Callable[[int], Floats],
        sampler: Sampler,
    ) -> Floats:
        """(B, D, H, W) in [0, 1] -> the targets (B, K, H, W)."""
        import torch  # seconds: only when there is work

        from model.diffusion import Condition, sample
        from model.network import REFERENCE_NM

        network = self._loaded()
        device = next(network.parameters()).device
        z, _, x = self._voxel_nm
        size = torch.tensor([z / REFERENCE_NM[0], x / REFERENCE_NM[1]]).log2().expand(len(clean), 2)

        def on_device(values: Floats) -> Tensor:
            return torch.from_numpy(values)[:, None].to(device)  # (B, 1, ..., H, W)

        shown = on_device(known.astype(np.float32))
        condition = Condition((2 * on_device(clean) - 1) * shown, shown, targets, size.to(device))
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=_has_bfloat16(device.type)):
            out = sample(network, condition, lambda draw: on_device(noise(draw)), sampler)
        restored: Floats = (
            ((out[:, 0] + 1) / 2).clamp(0, 1).float().cpu().numpy()
        )  # NaN passes, for the pipeline to see
        return restored

    def _loaded(self) -> AnisoUNet3D:
        """The network, loaded and checked on first use."""
        import torch

        if self._network is None:
            if self._threads:
                torch.set_num_threads(self._threads)
            torch.backends.cudnn.allow_tf32 = False  # float32 is used where rounding would show
            torch.backends.cudnn.deterministic = True  # the same bits, run after run
            try:
                device = resolve(self._device)
            except DeviceError as error:
                raise RestorerError(str(error)) from error
            network = load_network(self._path, self._card).to(device)
            self._network = _compiled(network) if self._compile else network
        return self._network


def _work(sampler: Sampler) -> int:
    """How long a sample takes, in evaluations in bfloat16."""
    return sampler.evaluations + (BLIND - 1 if sampler.start == "bridge" else 0)


def _compiled(network: AnisoUNet3D) -> AnisoUNet3D:
    import torch

    # A dozen shapes of gap and context: beyond its limit torch would go on uncompiled, with other bits, unnoticed.
    torch._dynamo.config.recompile_limit = 64
    return cast("AnisoUNet3D", torch.compile(network, dynamic=False))


def _has_bfloat16(device: str) -> bool:
    """bfloat16 where the hardware multiplies it (4 times faster); float32 elsewhere. They differ by under a grey
    level.
    """
    import torch

    return device == "cuda" or bool(torch.cpu._is_avx512_bf16_supported())


def _check_voxel(card: Card, voxel_nm: tuple[float, float, float]) -> None:
    low, high = card.voxel_nm_min, card.voxel_nm_max
    outside = [i for i, v in enumerate(voxel_nm) if not low[i] <= v <= high[i]]
    if not outside:
        return
    wrong = ", ".join(f"{'zyx'[i]} is {voxel_nm[i]:g}, they know {low[i]:g} to {high[i]:g}" for i in outside)
    # Levels of a pyramid mostly differ in y and x alone.
    level = "" if 0 in outside else "restore another resolution level of the volume, whose voxels lie inside, or "
    raise VoxelSizeError(
        f"voxel size {tuple(voxel_nm)} nm (z, y, x) is outside what weights {card.name!r} were trained on: {wrong} nm; "
        f"{level}train weights on data like yours (zmend train --help)"
    )


def _check_window(
    card: Card,
    window: Floats,
    known: npt.NDArray[np.bool_],
    targets: tuple[int, int],
    origin: npt.NDArray[np.int64],
) -> None:
    """Every way in which a caller can break the contract, said before anything is computed."""
    if window.ndim != 4 or known.shape != window.shape or origin.shape != (len(window), 3):
        raise RestorerError(
            f"window {window.shape} and known {known.shape} must be (B, D, H, W), origin {origin.shape} (B, 3)"
        )
    before, gap, after = targets[0], targets[1] - targets[0], window.shape[1] - targets[1]
    if not (1 <= before <= card.context and 1 <= after <= card.context and 1 <= gap <= card.max_gap):
        raise RestorerError(
            f"{before} clean + {gap} target + {after} clean sections: {card.name!r} restores 1 to {card.max_gap} "
            f"between 1 to {card.context} clean ones either side; split the gap or list it as not restorable"
        )
    if window.shape[2] % card.stride or window.shape[3] % card.stride:
        raise RestorerError(f"window {window.shape[2:]} must be a multiple of {card.stride} pixels in y and x; pad it")
