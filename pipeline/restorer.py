"""Restorer: the one interface between tissue and mathematics. NumPy in, NumPy out; it declares what it needs.

Two torch-free restorers ship as baselines: `nearest` copies the nearest clean section, `linear` interpolates.
The diffusion model lives in another package that this one never imports: it is named by a string.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import RestorerError
from pipeline.recipe import Recipe, digest

F32: TypeAlias = NDArray[np.float32]
Mask: TypeAlias = NDArray[np.bool_]
I64: TypeAlias = NDArray[np.int64]
NM = tuple[float, float, float]
GIVEN = ("weights", "seed", "steps", "batch", "voxel_nm", "threads")  # to every restorer, beside recipe.options
LIGHT = ("nearest", "linear")  # that take less time than reading does
BUILT_IN = {
    "diffusion": "model.restorer:DiffusionRestorer",
    "nearest": "pipeline.restorer:Nearest",
    "linear": "pipeline.restorer:Linear",
}


@dataclass(frozen=True, slots=True)
class Needs:
    """What a restorer declares; the pipeline provides it."""

    name: str
    digest: str  # sha256 of everything inside it that can change a voxel
    context: int  # clean sections it can use on each side of a gap; one is enough to work
    max_gap: int  # longest run of sections that it restores
    tile: int  # edge of the square that it restores at once, px
    halo: int  # margin around a tile that it looks at, px
    stride: int = 1  # tile and halo are multiples of it
    batch: int = 1  # tiles in one call
    one_sided: bool = False  # can restore with clean sections on one side only
    scale_free: bool = False  # whether it does not care which values are black and white
    memory_bytes: int = 0  # that it holds beside what it is given: weights, what it computes with
    mpx_s: float = 0.0  # megapixels that it restores in a second on an ordinary worker, for estimates; 0: not known
    draw_cost: float = 1.0  # what a draw of its ensemble takes, in restorations; for estimates
    spread: bool = False  # whether it can say how far an ensemble of its restorations spreads

    def seconds(self, voxels: int, draws: int = 0) -> float:
        """Of one worker, to restore so many voxels once and to draw an ensemble of them; 0 where no pace is known."""
        return voxels * (1 + draws * self.draw_cost) / (self.mpx_s * 1e6) if self.mpx_s else 0.0

    @staticmethod
    def parse(answers: Mapping[str, object], name: str) -> Needs:
        """From the dict that a restorer gives. Raises RestorerError where an answer is missing or impossible."""
        try:
            needs = Needs(**{k: v for k, v in answers.items() if k in Needs.__slots__})  # type: ignore[arg-type]
        except TypeError as e:
            raise RestorerError(
                "the restorer does not declare what it needs",
                where=name,
                why=str(e),
                do="its `needs` must hold " + ", ".join(Needs.__slots__),
            ) from e
        if min(needs.tile, needs.stride, needs.max_gap, needs.context) < 1 or needs.halo < 0:
            raise RestorerError(
                "the restorer declares impossible needs",
                where=name,
                why=repr(needs),
                do="tile, stride, max_gap and context are 1 or more, halo 0 or more",
            )
        if needs.tile % needs.stride or needs.halo % needs.stride:
            raise RestorerError(
                "the restorer's tile and halo are not multiples of its stride",
                where=name,
                why=f"tile {needs.tile}, halo {needs.halo}, stride {needs.stride}: two tiles would disagree",
                do="round both up to the stride",
            )
        return needs


class Restorer(Protocol):
    """Restores the target sections of small windows."""

    @property
    def needs(self) -> Mapping[str, object]:
        """The fields of `Needs`, as a dict, so that a restorer need not import this package."""

    def restore(self, window: F32, known: Mask, targets: tuple[int, int], origin: I64) -> F32:
        """Predict the target sections of a batch of windows.

        window (B, D, H, W) in [0, 1]; where `known` is False its values mean nothing. known (B, D, H, W).
        targets: half-open range along D; sections outside it are clean. origin (B, 3): global (z, y, x) of
        each window's first voxel; it may be negative at the edge of the volume.
        Returns (B, D, H, W) in the same units. Must not depend on the batch, on order or on earlier calls.
        """


class ProvenRestorer(Restorer, Protocol):
    """A restorer whose digest is of files that it reads later."""

    def check_weights(self) -> None:
        """Reads them, and raises ValueError or OSError where they are not what the digest says."""

    def device(self) -> str:
        """Loads them, and names the kind of device that it computes on; raises ValueError where they do not fit."""


class SpreadRestorer(Restorer, Protocol):
    """A restorer that can also say how sure it is; `needs` says spread: False where its settings allow no ensemble."""

    def restore_with_spread(
        self, window: F32, known: Mask, targets: tuple[int, int], origin: I64, draws: int
    ) -> tuple[F32, F32]:
        """What `restore` returns, bit for bit, and the standard deviation over `draws` samples.

        Both (B, D, H, W) float32 in the units of `window`; the spread is finite, 0 or more, and 0 in sections outside
        `targets`. It depends on what `restore` depends on and on `draws`, and on nothing else.
        """


class _Baseline:
    def __init__(self, **settings: object) -> None:
        """Takes what every restorer is given, and needs none of it. Raises ValueError for more."""
        if unknown := sorted(set(settings) - set(GIVEN)):
            near = get_close_matches(unknown[0], Recipe.model_fields, n=1)
            hint = f"; did you mean recipe.{near[0]}?" if near else ""
            raise ValueError(f"{type(self).__name__.lower()} has no options, and was given {', '.join(unknown)}{hint}")

    @property
    def needs(self) -> Mapping[str, object]:
        name = type(self).__name__.lower()
        return {
            "name": name,
            "digest": digest({"baseline": name, "version": 1}),
            "context": 1,
            "max_gap": 8,
            "tile": 512,
            "halo": 32,
            "stride": 1,
            "batch": 1,
            "one_sided": self.one_sided,
            "scale_free": True,
        }

    one_sided = True


class Nearest(_Baseline):
    """Copies the nearest clean section; of two equally near ones the earlier."""

    def restore(self, window: F32, known: Mask, targets: tuple[int, int], origin: I64) -> F32:
        out = window.copy()
        first, last = targets
        for d in range(first, last):
            before = d - first + 1 <= last - d if first > 0 and last < window.shape[1] else first > 0
            out[:, d] = window[:, first - 1 if before else last]  # (B, H, W)
        return out


class Linear(_Baseline):
    """Interpolates linearly along z between the two clean sections next to the gap."""

    one_sided = False

    def restore(self, window: F32, known: Mask, targets: tuple[int, int], origin: I64) -> F32:
        out = window.copy()
        first, last = targets
        for d in range(first, last):
            w = np.float32((d - first + 1) / (last - first + 1))
            np.multiply(window[:, first - 1], 1 - w, out=out[:, d])  # (B, H, W)
            out[:, d] += w * window[:, last]
        return out


def load(recipe: Recipe, voxel_nm: NM | None, *, threads: int = 0) -> tuple[Restorer, Needs]:
    """Find the restorer that the recipe names and ask what it needs. Raises RestorerError.

    Cheap: a restorer loads its weights at the first tile, not here.
    """
    path = BUILT_IN.get(recipe.restorer, recipe.restorer)
    made = _make(path, recipe, voxel_nm, threads)
    answers = getattr(made, "needs", {})
    able = callable(getattr(made, "restore_with_spread", None)) and bool(answers.get("spread", True))
    needs = replace(Needs.parse(answers, path), spread=able)
    _check_voxel_size(answers, voxel_nm, path)
    _check_spread(recipe, able, path)
    return made, needs


def proven(restorer: Restorer, *, load: bool = False) -> str | None:
    """What is wrong with the files that a restorer would read; None: nothing, or it reads none. load: whether they are
    loaded too, which takes seconds."""
    try:
        for step in ("check_weights", "device") if load else ("check_weights",):
            getattr(restorer, step, lambda: None)()
    except (ValueError, OSError) as error:
        return str(error).splitlines()[0]
    return None


def _make(path: str, recipe: Recipe, voxel_nm: NM | None, threads: int) -> Restorer:
    module, _, name = path.partition(":")
    settings: dict[str, Any] = {
        "weights": recipe.weights,
        "seed": recipe.seed,
        "steps": recipe.steps,
        "batch": recipe.batch,
        "voxel_nm": voxel_nm,
        "threads": threads,
    }
    try:
        kind = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError, TypeError) as e:
        raise RestorerError(
            f"there is no restorer '{recipe.restorer}'",
            where="recipe.restorer",
            why=str(e),
            do=f"use one of {', '.join(sorted(BUILT_IN))}, or module:Class of your own (on PYTHONPATH)",
        ) from e
    try:
        made: Restorer = kind(**settings, **recipe.options)
    except (ValueError, TypeError, OSError) as e:
        if voxel_nm is None and isinstance(e, TypeError):  # None where three numbers are needed
            raise _unknown_voxel_size(path) from e
        raise RestorerError(
            "the restorer refuses the recipe",
            where=f"recipe ({path})",
            why=str(e),
            do="mend the recipe; `zmend doctor` shows the weights that are here",
        ) from e
    return made


def _check_voxel_size(answers: Mapping[str, object], voxel_nm: NM | None, path: str) -> None:
    low, high = answers.get("voxel_nm_min"), answers.get("voxel_nm_max")
    if low is None or high is None:
        return
    if voxel_nm is None:
        raise _unknown_voxel_size(path)
    lo, hi = np.asarray(low, float), np.asarray(high, float)
    outside = np.flatnonzero((voxel_nm < lo) | (hi < voxel_nm)).tolist()
    if outside:
        raise RestorerError(
            f"voxel size {voxel_nm} nm is outside what the weights were trained for",
            where=path,
            why="; ".join(f"{'zyx'[i]} is {voxel_nm[i]:g} nm, they know {lo[i]:g} to {hi[i]:g}" for i in outside),
            do="train on your own tissue: zmend train --help"
            if 0 in outside  # levels of a pyramid mostly differ in y and x alone
            else "choose another volume.level, or train on your own tissue: zmend train --help",
        )


def _check_spread(recipe: Recipe, able: bool, path: str) -> None:
    if recipe.uncertainty and not able:
        raise RestorerError(
            f"the restorer '{recipe.restorer}' cannot say how sure it is",
            where=f"recipe.uncertainty: {recipe.uncertainty} ({path})",
            why="it draws no ensemble: it has no restore_with_spread, or declares spread: False with these settings",
            do="set recipe.uncertainty: 0, or use a restorer that draws samples (diffusion)",
        )


def _unknown_voxel_size(path: str) -> RestorerError:
    return RestorerError(
        "the voxel size is not known",
        where=path,
        why="the restorer was trained for some sizes only, and neither the volume nor the configuration says its own",
        do="add to zmend.yaml  volume: {voxel_size_nm: [z, y, x]}",
    )
