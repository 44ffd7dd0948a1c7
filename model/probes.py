"""Two looks at our restorer itself: which sampler settings give what, and how far tiles differ from the whole."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from model import figures, scenes, tally
from model.baselines import baselines, constant, ours
from model.checkpoint import Card
from model.metrics import MembraneClassifier
from model.network import AnisoUNet3D
from model.restorer import DiffusionRestorer
from model.sampler import Sampler
from model.scenes import Case, Method

log = logging.getLogger("model.probes")

LEAST_POWER = 0.85  # of the real section's: what is blurrier is no candidate for the default
HALOS = (16, 32, 48, 64, 96, 128)
_TILE = 256
_CORES = ((384, 384), (128, 640))  # (y, x) of two tiles, farther than the widest halo from the section's edge
_SECTION = 1024


def settings(sampler: Sampler) -> dict[str, Sampler]:
    """The sampler as it is, and with one setting changed at a time."""
    found = {"default": sampler}
    found |= {f"steps {n}": replace(sampler, steps=n) for n in (1, 2, 4, 8, 16)}
    found |= {f"temperature {t:g}": replace(sampler, temperature=t) for t in (0.0, 0.25, 0.5, 0.75, 1.0)}
    found |= {f"texture {t:g}": replace(sampler, texture=t) for t in (0.8, 1.0, 1.2, 1.4)}
    return found


def points(cases: list[Case], methods: Mapping[str, Method], classifier: MembraneClassifier,
           ) -> dict[str, dict[str, float]]:  # fmt: skip
    """Mean power, membrane F1, NCC and gain of each method over the cases."""
    found = {}
    for name, method in methods.items():
        rows = []
        for case in cases:
            base, image = constant(case)[0], method(case)[0]
            assert case.membranes is not None
            sums = tally.tally(case.truth[0], image, base, case.unknown[0], case.membranes[0], classifier(image))
            rows.append(tally.row(sums))
        found[name] = {c: float(np.mean([r[c] for r in rows])) for c in ("power", "membrane_f1", "ncc", "gain_db")}
        log.info("%s: %s", name, {k: round(v, 3) for k, v in found[name].items()})
    return found


def best(found: Mapping[str, Mapping[str, float]], least: float = LEAST_POWER) -> str | None:
    """The setting with the best membrane F1 among those with enough power; None if there is none."""
    enough = [name for name, row in found.items() if row["power"] >= least]
    return max(enough, key=lambda name: found[name]["membrane_f1"]) if enough else None


def curve(options: argparse.Namespace, network: AnisoUNet3D, sampler: Sampler, classifier: MembraneClassifier,
          record: dict[str, Any]) -> str:  # fmt: skip
    """F1 against power on validation rows: curve.png, an entry in the record, and the table."""
    cases = scenes.load(options.data, "validation")
    cases = scenes.limit(cases, 1, 128) if options.quick else cases
    ask = settings(sampler)
    simple = points(cases, baselines(), classifier)
    found = points(cases, {name: ours(network, s, options.seed) for name, s in ask.items()}, classifier)
    real = points(cases, {"real section": lambda case: case.truth}, classifier)
    record["curve"] = {"settings": found, "baselines": simple | real, "least_power": LEAST_POWER, "best": best(found)}
    dots, squares = ([(n, r["power"], r["membrane_f1"]) for n, r in group.items()] for group in (found, simple | real))
    figures.curve(options.out / "curve.png", dots, squares, LEAST_POWER)
    lines = [f"## curve: {len(cases)} validation cases (training sections, rows never trained on)", "",
             "| setting | power | membrane_f1 | ncc | gain_db |", "|---|---|---|---|---|"]  # fmt: skip
    for name, row in (real | simple | found).items():
        lines.append(f"| {name} | {' | '.join(f'{v:.3f}' for v in row.values())} |")
    return "\n".join([*lines, "", f"Best F1 at power >= {LEAST_POWER}: {best(found) or 'none'}"]) + "\n"


def halo(options: argparse.Namespace, card: Card, record: dict[str, Any]) -> str:
    """Grey levels by which the core of a tile with a halo differs from the same pixels of the whole section."""
    case = scenes.load(options.data, "vnc1")[0]
    if min(case.truth.shape[1:]) < _SECTION:
        raise ValueError(f"--halo cuts tiles from sections of {_SECTION} px; vnc_stack1 has {case.truth.shape[1:]}")
    restorer = DiffusionRestorer(
        voxel_nm=case.voxel_nm, weights=options.weights, seed=options.seed, threads=options.threads,
        device=options.device,
    )  # fmt: skip
    found = differences(restorer, case, _CORES[:1] if options.quick else _CORES, _TILE, HALOS)
    record["halo"] = {"tile": _TILE, "cores": _CORES, "card_halo": card.halo, "grey_levels": found}
    figures.halo(options.out / "halo.png", found, card.halo)
    lines = [f"## halo: {_TILE} px tiles against the whole section, grey levels (the card's halo is {card.halo})", "",
             "| halo | max | mean |", "|---|---|---|"]  # fmt: skip
    lines += [f"| {h} | {row['max']:.4f} | {row['mean']:.5f} |" for h, row in found.items()]
    return "\n".join(lines) + "\n"


def differences(restorer: DiffusionRestorer, case: Case, cores: tuple[tuple[int, int], ...], tile: int,
                halos: tuple[int, ...]) -> dict[int, dict[str, float]]:  # fmt: skip
    """halo -> max and mean |tile - whole| in grey levels over the cores, (y, x) each `tile` pixels square."""
    whole = _restored(restorer, case)
    found = {}
    for width in halos:
        off = []
        for y, x in cores:
            part = _restored(restorer, _window(case, y - width, x - width, tile + 2 * width))
            inner = part[width : width + tile, width : width + tile]
            off.append(255 * np.abs(inner - whole[y : y + tile, x : x + tile]))
        found[width] = {"max": float(np.max(off)), "mean": float(np.mean(off))}
        log.info("halo %d: %s", width, found[width])
    return found


def _window(case: Case, y: int, x: int, edge: int) -> Case:
    """The case cut to a window that lies inside the section."""
    _, height, width = case.sections.shape
    assert y >= 0 and x >= 0 and y + edge <= height and x + edge <= width, (y, x, edge)
    cut = (slice(None), slice(y, y + edge), slice(x, x + edge))
    z, oy, ox = case.origin
    return replace(case, sections=case.sections[cut], known=case.known[cut], truth=case.truth[cut],
                   origin=(z, oy + y, ox + x))  # fmt: skip


def _restored(restorer: DiffusionRestorer, case: Case) -> scenes.Floats:
    """The first target, (H, W), as the pipeline would get it."""
    out = restorer.restore(case.sections[None], case.known[None], case.targets, np.array([case.origin], np.int64))
    return np.asarray(out[0, case.targets[0]])
