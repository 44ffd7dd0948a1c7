"""Pictures of an evaluation. They show test data, whose licences differ: they go into OUT and are never committed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from model.scenes import Case, Image

CROP = 320  # pixels of a section that are shown
_ROW = 4  # images side by side


def pictures(path: Path, case: Case, restored: Mapping[str, Image], spread: Image | None = None) -> None:
    """The first section to restore: truth | what was given | neighbours | every method | the ensemble's spread.

    restored: name -> (K, H, W) with the known voxels in place; spread (K, H, W) in grey values, shown on its own scale.
    """
    before, after = case.pair
    images: dict[str, Image] = {"truth": case.truth[0], "before": before, "after": after}
    if case.known[case.targets[0]].any():
        images["given"] = case.sections[case.targets[0]]
    images |= {name: planes[0] for name, planes in restored.items()}
    rows = -(-(len(images) + (spread is not None)) // _ROW)
    figure = Figure(figsize=(3 * _ROW, 3.2 * rows), layout="constrained")
    axes = figure.subplots(rows, _ROW, squeeze=False).ravel()
    cut = window(case)
    for axis in axes:
        axis.set_axis_off()
    for axis, (name, image) in zip(axes, images.items(), strict=False):
        axis.imshow(image[cut], cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        axis.set_title(name, fontsize=9)
    if spread is not None:
        shown = axes[len(images)].imshow(255 * spread[0][cut], cmap="magma", interpolation="nearest")
        axes[len(images)].set_title("spread, grey levels", fontsize=9)
        figure.colorbar(shown, ax=axes[len(images)], shrink=0.8)
    figure.suptitle(f"{case.name}, {case.voxel_nm[2]:g} nm a pixel", fontsize=10)
    figure.savefig(path, dpi=110)


def window(case: Case) -> tuple[slice, slice]:
    """CROP pixels square around the middle of what was restored, inside the section."""
    middle = [float(n.mean()) for n in np.nonzero(case.unknown[0])]
    starts = [
        int(np.clip(m - CROP / 2, 0, max(n - CROP, 0))) for m, n in zip(middle, case.truth.shape[1:], strict=True)
    ]
    return slice(starts[0], starts[0] + CROP), slice(starts[1], starts[1] + CROP)


def curve(path: Path, points: Sequence[tuple[str, float, float]], baselines: Sequence[tuple[str, float, float]],
          least: float) -> None:  # fmt: skip
    """Membrane F1 against high-frequency power: (name, power, F1) of sampler settings and of baselines.

    `least` is the power below which a setting is no candidate for the default.
    """
    figure = Figure(figsize=(8, 6), layout="constrained")
    axis = figure.subplots()
    for style, group in (("o", points), ("s", baselines)):
        axis.plot([p for _, p, _ in group], [f for _, _, f in group], style, ms=5)
        for name, power, value in group:
            axis.annotate(name, (power, value), xytext=(4, 3), textcoords="offset points", fontsize=7)
    axis.axvline(least, ls="--", lw=1, color="grey")
    axis.set_xlabel("high-frequency power over the real section's (0.125-0.5 cycles per pixel)")
    axis.set_ylabel("membrane F1 of a classifier fitted to real sections")
    figure.savefig(path, dpi=110)


def halo(path: Path, found: Mapping[int, Mapping[str, float]], declared: int) -> None:
    """Largest and mean difference of a tile from the whole section, in grey levels, against the halo in pixels."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axis = figure.subplots()
    for name, style in (("max", "o-"), ("mean", "s-")):
        axis.semilogy(list(found), [max(row[name], 1e-4) for row in found.values()], style, ms=5, label=name)
    axis.axhline(1.0, ls=":", lw=1, color="grey")  # one grey level
    axis.axvline(declared, ls="--", lw=1, color="grey", label=f"declared: {declared} px")
    axis.set_xlabel("halo around a tile, pixels")
    axis.set_ylabel("grey levels between tile and whole section")
    axis.legend()
    figure.savefig(path, dpi=110)


def calibration(path: Path, ranks: Sequence[float], spreads: Sequence[float], errors: Sequence[float]) -> None:
    """How often the truth lies at each rank among the members; rms error against spread, grey values in [0, 1]."""
    figure = Figure(figsize=(9, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.bar(range(len(ranks)), ranks, color="steelblue")
    left.axhline(1 / len(ranks), ls="--", lw=1, color="grey")
    left.set_xlabel("members below the truth")
    left.set_ylabel("share of voxels (calibrated: dashed)")
    right.plot([255 * s for s in spreads], [255 * e for e in errors], "o-", ms=5)
    top = 255 * max(*spreads, *errors)
    right.plot([0, top], [0, top], ls="--", lw=1, color="grey")
    right.set_xlabel("spread of a tenth of the voxels, grey levels")
    right.set_ylabel("rms error of the mean there (calibrated: dashed)")
    figure.savefig(path, dpi=110)
