"""Evaluation on held-out real sections, always beside the simple methods.

    zmend evaluate --data DATA --weights default --out OUT

Each of vnc_stack1 z 14-18 is left out in turn and restored from its neighbours (two a side where they exist). Writes
metrics.json, metrics.md and picture.png. Nothing is fitted on the test sections: the membrane classifier is trained on
real training sections, the sampler's settings were chosen on validation rows.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage

from model import metrics
from model.checkpoint import load_network, locate, read_card
from model.diffusion import Condition, Sampler, sample
from model.network import REFERENCE_NM, AnisoUNet3D
from model.noise import normal

log = logging.getLogger("model.evaluate")

Image = npt.NDArray[np.floating]
Method = Callable[[Image, int], Image]  # stack (Z, H, W) in [0, 1] and the section left out -> that section
COLUMNS = ("gain_db", "ncc", "ncc4", "ncc8", "power", "membrane_f1", "ssim", "frc_cutoff")


@dataclass(frozen=True, slots=True)
class Scene:
    """Sections to restore one at a time, and everything known about them."""

    stack: Image  # (Z, H, W) float32 in [0, 1]
    membranes: npt.NDArray[np.bool_]  # (Z, H, W)
    sections: tuple[int, ...]  # left out in turn
    voxel_nm: tuple[float, float, float]


def baselines() -> dict[str, Method]:
    """The methods that need no training. `constant` uses the neighbours' mean, never the truth's."""
    return {
        "constant": lambda s, z: np.full_like(s[z], (s[z - 1].mean() + s[z + 1].mean()) / 2),
        "copy": lambda s, z: np.asarray(s[z - 1]),
        "average": _average,
        "average+blur": lambda s, z: ndimage.gaussian_filter(_average(s, z), 3),
        "cubic": cubic,
        "flow": flow,
    }


def _average(stack: Image, z: int) -> Image:
    return np.asarray((stack[z - 1] + stack[z + 1]) / 2)


def cubic(stack: Image, z: int) -> Image:
    """Cubic interpolation through two sections a side; the average where one side has a single one."""
    if z < 2 or z + 2 >= len(stack):
        return _average(stack, z)
    return np.asarray(np.clip((9 * (stack[z - 1] + stack[z + 1]) - stack[z - 2] - stack[z + 2]) / 16, 0, 1))


def flow(stack: Image, z: int) -> Image:
    """DIS optical flow between the neighbours, both warped half way, averaged."""
    a, b = stack[z - 1].astype(np.float32), stack[z + 1].astype(np.float32)
    return (_half_way(a, b) + _half_way(b, a)) / 2


def _half_way(a: Image, b: Image) -> Image:
    """`a` moved half of the way to `b`."""
    dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    field = dis.calc((b * 255).astype(np.uint8), (a * 255).astype(np.uint8), np.zeros((*a.shape, 2), np.float32))
    y, x = np.mgrid[: a.shape[0], : a.shape[1]].astype(np.float32)
    moved = cv2.remap(
        a, x + field[..., 0] / 2, y + field[..., 1] / 2, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    return np.asarray(moved)


def ours(network: AnisoUNet3D, sampler: Sampler, voxel_nm: Sequence[float], seed: int = 0) -> Method:
    """Our restorer without tiles: the whole section in one window."""

    def restore(stack: Image, z: int) -> Image:
        first, last = max(z - 2, 0), min(z + 3, len(stack))
        window = torch.from_numpy(np.asarray(stack[first:last], np.float32) * 2 - 1)[None, None]  # (1, 1, D, H, W)
        known = torch.ones_like(window)
        known[:, :, z - first] = 0
        size = torch.tensor([[voxel_nm[0] / REFERENCE_NM[0], voxel_nm[2] / REFERENCE_NM[1]]]).log2()
        condition = Condition(window * known, known, (z - first, z - first + 1), size)

        def noise(draw: int) -> torch.Tensor:
            return torch.from_numpy(normal((z, 0, 0), (1, *stack.shape[1:]), seed=seed, draw=draw))[None, None]

        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            out = sample(network, condition, noise, sampler)
        return np.asarray(((out[0, 0, 0].float() + 1) / 2).clamp(0, 1).numpy())

    return restore


def measure(truth: Image, image: Image, constant: Image, membranes: npt.NDArray[np.bool_],
            classifier: metrics.MembraneClassifier) -> dict[str, float]:  # fmt: skip
    """One row of the table."""
    return {
        "gain_db": metrics.psnr(truth, image) - metrics.psnr(truth, constant),
        "ncc": metrics.ncc(truth, image),
        "ncc4": metrics.ncc(truth, image, 4),
        "ncc8": metrics.ncc(truth, image, 8),
        "power": metrics.power_ratio(truth, image),
        "membrane_f1": metrics.f1(membranes, classifier(image)),
        "ssim": metrics.ssim(truth, image),
        "frc_cutoff": metrics.frc_cutoff(truth, image),
    }


def compare(scene: Scene, methods: Mapping[str, Method], classifier: metrics.MembraneClassifier,
            ) -> tuple[dict[str, list[dict[str, float]]], dict[str, Image]]:  # fmt: skip
    """Every method on every section: the rows, and the images of the first section."""
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in ("real section", *methods)}
    images: dict[str, Image] = {}
    for z in scene.sections:
        truth, hidden = scene.stack[z], scene.stack.copy()
        hidden[z] = 0.5  # no method can look
        constant = baselines()["constant"](hidden, z)
        made = {"real section": truth, **{name: method(hidden, z) for name, method in methods.items()}}
        for name, image in made.items():
            rows[name].append(measure(truth, image, constant, scene.membranes[z], classifier))
        images = images or made
        log.info("z %d done", z)
    return rows, images


def summary(rows: Mapping[str, Sequence[Mapping[str, float]]]) -> dict[str, dict[str, float]]:
    """Mean over the sections, column by column."""
    return {name: {c: float(np.mean([r[c] for r in each])) for c in COLUMNS} for name, each in rows.items()}


def _plain(table: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float | None]]:
    """Rounded, and without infinities, which JSON has not."""
    return {name: {c: round(v, 4) if np.isfinite(v) else None for c, v in row.items()} for name, row in table.items()}


def markdown(table: Mapping[str, Mapping[str, float]], title: str) -> str:
    lines = [f"## {title}", "", f"| method | {' | '.join(COLUMNS)} |", "|---" * (len(COLUMNS) + 1) + "|"]
    for name, row in table.items():
        cells = ["" if not np.isfinite(row[c]) else f"{row[c]:.3f}" for c in COLUMNS]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def picture(path: Path, images: Mapping[str, Image], neighbours: Mapping[str, Image], crop: int = 320) -> None:
    """The middle of every image side by side, named, at one grey scale."""
    tiles = []
    for name, image in {**neighbours, **images}.items():
        y, x = ((n - crop) // 2 for n in image.shape)
        tile = np.clip(image[y : y + crop, x : x + crop] * 255, 0, 255).astype(np.uint8)
        label = cv2.putText(np.zeros((20, crop), np.uint8), name, (4, 15), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (255,), 1)
        tiles.append(np.pad(np.concatenate([label, tile]), 2))
    tiles += [np.zeros_like(tiles[0])] * (-len(tiles) % 4)
    cv2.imwrite(str(path), np.concatenate([np.concatenate(tiles[i : i + 4], 1) for i in range(0, len(tiles), 4)]))


def load_vnc(
    folder: Path, sections: tuple[int, ...], rows: tuple[int, int] = (0, 1024)
) -> tuple[Scene, metrics.MembraneClassifier]:
    """vnc_stack1 and a classifier fitted to every other training section (rows above the validation rows)."""
    path = folder / "manifest.json"
    stacks = json.loads(path.read_text()) if path.is_file() else {}
    if "vnc_stack1" not in stacks:
        raise ValueError(f"the evaluation is made for the stack vnc_stack1, which {path} does not name")
    manifest = stacks["vnc_stack1"]
    with np.load(folder / manifest["file"]) as arrays:
        raw, membranes = arrays["raw"].astype(np.float32) / np.float32(255), arrays["membranes"].astype(bool)
    classifier = metrics.MembraneClassifier.fit(list(raw[0:14:2, :832]), list(membranes[0:14:2, :832]))
    cut = slice(*rows)
    z, y, x = manifest["voxel_zyx_nm"]
    return Scene(raw[:, cut], membranes[:, cut], sections, (z, y, x)), classifier


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; 0 when the tables are written."""
    options = _parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if options.threads:
        torch.set_num_threads(options.threads)
    path = locate(options.weights)
    card = read_card(path)
    network, sampler = load_network(path, card), Sampler(**card.sampler)
    scene, classifier = load_vnc(options.data, tuple(options.sections))
    methods = {
        **baselines(),
        "ours (sample, default)": ours(network, sampler, scene.voxel_nm, options.seed),
        "ours (posterior mean)": ours(network, replace(sampler, steps=1), scene.voxel_nm, options.seed),
    }
    rows, images = compare(scene, methods, classifier)
    table = summary(rows)
    options.out.mkdir(parents=True, exist_ok=True)
    title = f"vnc_stack1 z {options.sections}, one section missing at 4.6 nm, weights {card.name} {card.sha256[:12]}"
    each = [_plain({name: r[i] for name, r in rows.items()}) for i in range(len(scene.sections))]
    report = {"title": title, "mean": _plain(table), "sections": dict(zip(scene.sections, each, strict=True))}
    (options.out / "metrics.json").write_text(json.dumps(report, indent=1))
    (options.out / "metrics.md").write_text(markdown(table, title))
    z = scene.sections[0]
    picture(options.out / "picture.png", images, {"previous": scene.stack[z - 1], "next": scene.stack[z + 1]})
    if options.update_card:
        replace(card, metrics={"title": title, "mean": _plain(table)}).write(path.with_suffix(".json"))
    print(markdown(table, title))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "model.evaluate", description="Compare the restorer with simple methods on real sections."
    )
    parser.add_argument(
        "--data", type=Path, required=True, help="folder of manifest.json and the npz files it names (vnc_stack1)"
    )
    parser.add_argument("--weights", default="default", help="shipped name or path of a .safetensors file")
    parser.add_argument(
        "--out", type=Path, default=Path(".train/eval"), help="folder for metrics.json, metrics.md, picture.png"
    )
    parser.add_argument("--sections", type=int, nargs="+", default=[14, 15, 16, 17, 18])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=0, help="0 = torch's default")
    parser.add_argument("--update-card", action="store_true", help="write the means into the weights' card")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
