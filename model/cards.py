"""Cards of new weights: what a training run owes to its data, and where what it made is valid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from model import data
from model.checkpoint import Card
from model.trainer import Trainer

Triple = tuple[float, float, float]
_INHERITED = ("context", "max_gap", "tile", "halo", "spread_scale")  # of the parent: the network is the same


def card_of(name: str, trainer: Trainer, parent: Card | None = None) -> Card:
    """The card of what a trainer has made; the file's sha256 and the metrics are filled in later.

    What was fine-tuned owes to its parent's data too: their names, terms and voxel sizes stay in the card. So do the
    parent's tile, halo and width of the ensemble.
    """
    s = trainer.settings
    sources = _sources(trainer, parent)
    terms = "; ".join(sorted({f"{d['name']}: {d.get('licence', 'not stated')}" for d in sources}))
    low, high = voxel_range(trainer.stacks)
    if parent:
        low, high = _each(min, low, parent.voxel_nm_min), _each(max, high, parent.voxel_nm_max)
    card = Card(
        name, "", s.network.to_dict(), asdict(s.sampler), sources, f"The terms of the data bind these weights. {terms}",
        _training(trainer, parent), low, high, stride=s.network.stride,
    )  # fmt: skip
    return replace(card, **{field: getattr(parent, field) for field in _INHERITED}) if parent else card


def _sources(trainer: Trainer, parent: Card | None) -> list[dict[str, str]]:
    own = [
        {
            "name": t.part.name,
            "sections": f"{t.part.sections[0]}-{t.part.sections[0] + t.raw.shape[0] - 1}",
            "rows": f"{t.part.rows[0]}-{t.part.rows[0] + t.raw.shape[1] - 1}",
            "licence": t.licence,
        }
        for t in trainer.stacks
    ]
    return own + [dict(d) for d in (parent.data if parent else ()) if dict(d) not in own]


def _training(trainer: Trainer, parent: Card | None) -> dict[str, Any]:
    s = trainer.settings
    said = {
        "steps": trainer.done, "batch": s.size, "crop": s.crop, "seed": s.seed, "rate": s.rate, "blind": s.blind,
        "minutes": round(trainer.seconds / 60, 1), "device": trainer.device.type,
    }  # fmt: skip
    if trainer.best_step is not None:
        said["best_step"] = trainer.best_step
    if parent:
        said["from"] = {"name": parent.name, "sha256": parent.sha256, "training": dict(parent.training)}
    return said


def _each(of: Any, a: Triple, b: Triple) -> Triple:
    return of(a[0], b[0]), of(a[1], b[1]), of(a[2], b[2])


def voxel_range(stacks: Sequence[data.Stack]) -> tuple[Triple, Triple]:
    """Least and largest (z, y, x) voxel size that training covered, with a little to spare: lateral size is also
    doubled in training, and an isotropic stack stands for sections four slices thick."""
    thick = [s.voxel_nm[0] * (4 if s.part.isotropic else 1) for s in stacks]
    fine = [s.voxel_nm[1] for s in stacks]
    wide = [s.voxel_nm[1] * (1 if s.part.isotropic else 2) for s in stacks]
    low, high = (0.875 * min(thick), 0.9 * min(fine)), (1.1 * max(thick), 1.1 * max(wide))
    return (low[0], low[1], low[1]), (high[0], high[1], high[1])
