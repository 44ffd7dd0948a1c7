"""Demo: damage a phantom whose truth is known, mend it with the ordinary command's code, verify, compare, draw."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.metrics import peak_signal_noise_ratio

from pipeline.blend import synthetic
from pipeline.box import Box
from pipeline.config import check
from pipeline.errors import InputError
from pipeline.flagfile import dump
from pipeline.job import propose
from pipeline.phantom import damage, phantom
from pipeline.recipe import Recipe
from pipeline.restorer import load
from pipeline.run import run
from pipeline.store import open_labels, open_merged
from pipeline.verify import verify
from pipeline.volume import Volume

U8 = NDArray[np.uint8]
SHAPE, SEED, VOXEL_NM = (24, 384, 384), 7, (45.0, 4.6, 4.6)


def demo(out: str, *, restorer: str, on_event: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Make the volumes under `out` and return errors against truth, the picture's path, and whether it verifies."""
    folder = Path(out)
    load(Recipe.model_validate({"restorer": restorer}), VOXEL_NM)  # refuse before anything is made
    _clear(folder)
    truth = phantom(SHAPE, seed=SEED, voxel_nm=VOXEL_NM)
    damaged, rows, masks = damage(truth, seed=SEED)
    _save(folder, damaged, rows, masks)
    summaries = {
        name: run(propose(_config(folder, name)), on_event=on_event) for name in dict.fromkeys((restorer, "linear"))
    }
    made = {name: _mended(folder, name) for name in summaries}
    labels = open_labels(str(folder / f"{restorer}.zarr")).read(Box.of(SHAPE))
    picture = folder / "demo.png"
    _draw(picture, truth, damaged, made, labels, rows)
    proof = verify(str(folder / f"{restorer}.zarr"), replay=2)
    return {
        "methods": [_score(n, v, truth, labels) for n, v in _methods(damaged, made).items()],
        "picture": str(picture),
        "output": str(folder / f"{restorer}.zarr"),
        "verified": proof["ok"],
        "run": summaries[restorer],
    }


def _clear(folder: Path) -> None:
    """Remove an earlier demo, and refuse to remove anything else."""
    mark = folder / ".zmend-demo"
    if folder.exists() and any(folder.iterdir()) and not mark.exists():
        raise InputError(
            "the demo's folder holds other things",
            where=str(folder),
            why="it was not made by zmend demo",
            do="give another: zmend demo --out FOLDER",
        )
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    mark.touch()


def _save(folder: Path, damaged: U8, rows: list[dict[str, Any]], masks: dict[int, NDArray[np.bool_]]) -> None:
    whole = Box.of(SHAPE)
    raw = Volume.create(str(folder / "raw.zarr"), shape=SHAPE, dtype=np.uint8, chunks=(8, 128, 128), voxel_nm=VOXEL_NM)
    raw.write(whole, damaged)
    mask = np.zeros(SHAPE, np.uint8)
    for z, m in masks.items():
        mask[z] = m
    Volume.create(
        str(folder / "mask.zarr"), shape=SHAPE, dtype=np.uint8, chunks=(1, 128, 128), voxel_nm=VOXEL_NM
    ).write(whole, mask)
    for row in rows:
        row["mask"] = "mask.zarr" if row["z_start"] in masks else ""
    (folder / "flags.csv").write_text(dump(rows))


def _config(folder: Path, restorer: str) -> Any:
    return check(
        {
            "volume": {"path": str(folder / "raw.zarr"), "voxel_size_nm": VOXEL_NM},
            "flags": str(folder / "flags.csv"),
            "output": {"path": str(folder / f"{restorer}.zarr"), "chunk_px": 128},
            "recipe": {"restorer": restorer, "seed": SEED},
            "site": {"workers": 2, "slab_px": "whole", "slab_sections": 2},
            "certificate": int(restorer != "linear"),  # one section: the demo is to be quick, and has the truth
        }
    )


def _mended(folder: Path, name: str) -> U8:
    made: U8 = open_merged(str(folder / f"{name}.zarr")).read(Box.of(SHAPE)).astype(np.uint8)
    return made


def _methods(damaged: U8, made: dict[str, U8]) -> dict[str, U8]:
    constant = np.full(SHAPE, int(damaged[damaged > 0].mean()), np.uint8)
    return {"constant grey": constant, "linear": made["linear"], **made}


def _score(name: str, volume: U8, truth: U8, labels: U8) -> dict[str, Any]:
    """PSNR over synthetic voxels, and new sections' fine detail (Laplacian variance) as a share of the truth's."""
    made = synthetic(labels)
    whole = [z for z in range(len(truth)) if (labels[z] == 1).all()]

    def detail(v: U8) -> float:
        return float(
            np.mean([ndimage.laplace(ndimage.gaussian_filter(v[z].astype(np.float32), 1)).var() for z in whole])
        )

    psnr = peak_signal_noise_ratio(truth[made], volume[made], data_range=255)
    return {
        "method": name,
        "PSNR dB": round(float(psnr), 2),
        "fine detail (truth = 1)": round(detail(volume) / detail(truth), 2),
    }


def _draw(path: Path, truth: U8, damaged: U8, made: dict[str, U8], labels: U8, rows: list[dict[str, Any]]) -> None:
    """A row a defect: the section before, the damaged one, each method's, the truth."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    places = [int(r["z_start"]) for r in rows]
    titles = ["section before", "damaged", *made, "truth"]
    figure = Figure(figsize=(2.2 * len(titles), 2.3 * len(places)), layout="constrained")
    axes = figure.subplots(len(places), len(titles), squeeze=False)
    for i, (z, line, row) in enumerate(zip(places, axes, rows, strict=True)):
        images = [damaged[z - 1], damaged[z], *(m[z] for m in made.values()), truth[z]]
        for ax, title, image in zip(line, titles, images, strict=True):
            ax.imshow(image[64:320, 64:320], cmap="gray", vmin=0, vmax=255)
            ax.set_xticks([])
            ax.set_yticks([])
            if i == 0:
                ax.set_title(title, fontsize=10)
        line[0].set_ylabel(f"z {z}, {row['class']}", fontsize=10)
    FigureCanvasAgg(figure).print_png(str(path))
