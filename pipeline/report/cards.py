"""Cards: one defect with pictures, scores and provenance, as the page's template takes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pipeline.blend import LEFT, UNCERTAIN, synthetic
from pipeline.box import Box
from pipeline.errors import VolumeError
from pipeline.ledger import Ledger
from pipeline.plan import Plan
from pipeline.recipe import GREY_PER_COUNT
from pipeline.report.defects import Defect, sections
from pipeline.report.page import number, short
from pipeline.report.pictures import Purse, greys, heat, outline, shrunk
from pipeline.report.scores import VISIBLE, Image, Scores, score
from pipeline.report.window import Pair, Section, Store, View

Json = dict[str, Any]
RECORDS = 3  # of one defect that are read again and told of: those of the slabs with the most restored voxels
SHORT_OF = 0.1  # NCC below that of intact sections that is told of
GRAIN = 9  # px over which voxels that are uncertain must be the most, to be outlined
BLUR, ROUGH = 0.2, 2.5  # fine detail, over the neighbours', that is told of


@dataclass(frozen=True, eq=False)
class Drawn:
    """A defect with everything that is shown of it."""

    defect: Defect
    view: View
    scores: Scores
    images: dict[str, str]  # data URIs
    records: list[Json]
    voxel_nm: tuple[float, float, float] | None
    spread_top: float  # grey levels that are the lightest colour

    @property
    def worry(self) -> tuple[float, ...]:
        """Larger is worse: as of the defect, then by what its voxels show."""
        return *self.defect.worry[:3], round(self.scores.shortfall, 3), self.scores.seam or 0.0


@dataclass
class Painter:
    """Draws defects, one after the other, until the page is full."""

    store: Store
    plan: Plan
    edge: int  # px of a picture
    purse: Purse
    share: int  # bytes of one defect's pictures

    def draw(self, defect: Defect, ledger: Ledger) -> Drawn | None:
        """The defect's pictures and scores; None where the page has no room left."""
        records = _records(defect, self.plan, ledger)
        chunks = [Box(tuple(c[0]), tuple(c[1])) for record in records for c in record["chunks"]]
        view = self.store.view(defect.flag, chunks, self.edge)
        low, high = self._black_and_white(view)
        top = self._top(view)
        images = self.purse.spend(self._images(view, low, high, top), self.share)
        if images is None:
            return None
        return Drawn(defect, view, _scores(view, low, high), images, records, self.store.source.voxel_nm, top)

    def _black_and_white(self, view: View) -> tuple[float, float]:
        """8 bits as they are; 16 by the recipe's window, or by what is seen."""
        if view.damaged.dtype == np.uint8:
            return 0.0, 255.0
        if window := self.plan.header["recipe"]["intensity"]:
            return float(window[0]), float(window[1])
        seen = [view.restored, *(s.image for s in (view.before[0], view.after[0]) if s is not None)]
        low, high = np.percentile(np.concatenate([a.ravel() for a in seen]), (0.5, 99.5))
        return float(low), float(max(high, low + 1))

    def _top(self, view: View) -> float:
        limit = self.plan.header["recipe"].get("refuse_above")
        most = 0 if view.counts is None else float(np.percentile(view.counts, 99.5)) * GREY_PER_COUNT
        return max(float(limit or 0), most, 1.0)

    def _images(self, view: View, low: float, high: float, top: float) -> dict[str, NDArray[np.uint8]]:
        planes = {"damaged": view.damaged, "restored": view.restored}
        planes |= {k: s[0].image for k, s in (("previous", view.before), ("next", view.after)) if s[0] is not None}
        planes |= {"cut_damaged": view.cut_damaged, "cut_restored": view.cut_restored}
        images = {k: shrunk(greys(v, low, high), self.edge) for k, v in planes.items() if not k.startswith("cut")}
        images |= {k: greys(v, low, high) for k, v in planes.items() if k.startswith("cut")}
        if view.counts is not None and view.counts.any():
            images["spread"] = shrunk(heat(view.counts, top / GREY_PER_COUNT), self.edge // 2)
        return images


def _records(defect: Defect, plan: Plan, ledger: Ledger) -> list[Json]:
    """Records of some of the defect's slabs: of a missing section those in its middle, else those that hold most."""
    found = []
    middle = len(defect.rows) // 2
    for row in sorted(defect.rows.tolist(), key=lambda r: abs(r - int(defect.rows[middle]))) if middle else defect.rows:
        try:
            record = ledger.get(plan.slabs[int(row)].id)
        except VolumeError:
            continue
        if sum(record["voxels"].values()):
            found.append(record)
        if len(found) == RECORDS:
            break
    return found


def _scores(view: View, low: float, high: float) -> Scores:
    def grey(image: NDArray[Any]) -> Image:
        return (image.astype(np.float64) - low) * (255 / (high - low))

    def side(pair: Pair) -> tuple[Image | None, Image | None]:
        near, far = (grey(s.image) if s is not None and s.intact else None for s in pair)
        return near, far

    made = synthetic(view.labels)
    return score(grey(view.restored), made, [side(view.before), side(view.after)])


# --- as the template takes it


def card(drawn: Drawn, *, judged: bool) -> Json:
    """Everything that the template of one defect needs."""
    defect, view = drawn.defect, drawn.view
    z0, z1 = defect.flag.box.start[0], defect.flag.box.stop[0]
    z = view.box.start[0]
    return {
        "id": defect.number,
        "class": defect.flag.kind,
        "sections": sections([(z0, z1)]),
        "many": z1 - z0 > 1,
        "note": ": ".join(filter(None, (defect.flag.source, defect.flag.note))),
        "concerns": concerns(drawn),
        "judged": judged,
        "images": {k: drawn.images.get(k, "") for k in (*PARTS, "cut_damaged", "cut_restored", "spread")},
        "captions": {
            "previous": _named("previous", view.before[0]), "next": _named("next", view.after[0]),
            "damaged": f"damaged, z {z}", "restored": f"restored, z {z}",
            "spread": f"spread of the ensemble, black 0 to light {drawn.spread_top:.0f} grey levels",
        },
        "notes": {"previous": _about(view.before[0]), "next": _about(view.after[0])},
        "paths": (paths := _paths(view)),
        "solid": {k: v for k, v in paths.items() if k != "doubt"},
        "cut": _cut(drawn),
        "scores": _score_rows(drawn.scores) if drawn.defect.made else [],
        "provenance": _provenance(drawn),
    }  # fmt: skip


PARTS = ("previous", "damaged", "restored", "next")


def _named(word: str, section: Section | None) -> str:
    return word if section is None else f"{word}, z {section.z}"


def _about(section: Section | None) -> str:
    if section is None:
        return "there is no such section"
    return "" if section.intact else "damaged too"


def _paths(view: View) -> dict[str, str]:
    """Outlines of what was made, left and doubted; none of a mask that fills the window."""
    doubt = ndimage.uniform_filter((view.labels == UNCERTAIN).astype(np.float32), GRAIN) > 0.5  # single voxels are dust
    masks = {"made": synthetic(view.labels), "left": view.labels == LEFT, "doubt": doubt}
    return {k: outline(m) for k, m in masks.items() if m.any() and not m.all()}


def _cut(drawn: Drawn) -> Json:
    box, labels = drawn.view.cut, synthetic(drawn.view.cut_labels)
    ratio = 1.0 if drawn.voxel_nm is None else drawn.voxel_nm[0] / drawn.voxel_nm[2]
    deep, wide = drawn.view.cut_damaged.shape
    return {
        "aspect": f"{wide} / {max(1.0, deep * ratio):.1f}",
        "path": outline(np.repeat(labels, max(1, round(ratio)), axis=0)) if labels.any() else "",
        "caption": f"xz at y {box.start[1]}: z {box.start[0]} (above) to {box.stop[0] - 1}; damaged, then restored",
    }


def concerns(drawn: Drawn) -> list[tuple[str, str]]:
    """What is to be looked at, in words: (bad or plain, text)."""
    d, s = drawn.defect, drawn.scores
    found = [
        (d.pending, "bad", f"{number(d.pending)} of {number(len(d.rows))} slabs not done yet"),
        (d.quarantined, "bad", "quarantined"),
        (d.left, "bad", f"{number(d.left)} voxels left as they were"),
        (d.uncertain, "bad", f"{d.uncertain / max(1, d.made):.0%} uncertain"),
        (s.shortfall > SHORT_OF, "bad", "less like its neighbours than intact sections are"),
        (s.seam is not None and s.seam >= VISIBLE, "bad", f"a step at the rim, {short(s.seam, 1)}× those around"),
        (s.detail is not None and s.detail < BLUR, "", "smoother than its neighbours"),
        (s.detail is not None and s.detail > ROUGH, "", "rougher than its neighbours"),
    ]  # fmt: skip
    return [(kind, text) for holds, kind, text in found if holds]


def _score_rows(s: Scores) -> list[tuple[str, str, str]]:
    """Name, value, and what it is to be held against."""
    shift = "–" if s.grey_shift is None else f"{s.grey_shift:+.1f}"
    return [
        ("NCC", short(s.ncc), f"intact sections here {short(s.ncc_intact)}"),
        ("SSIM", short(s.ssim), "to the neighbours"),
        ("detail", short(s.detail), "1 is as much as the neighbours have"),
        ("grey level", shift, "off the neighbours’ mean, of 255"),
        ("seam", short(s.seam), f"{short(s.seam_grey, 1)} grey levels at the rim; 1 cannot be seen"),
    ]


def _provenance(drawn: Drawn) -> list[tuple[str, str]]:
    defect, box = drawn.defect, drawn.view.box
    flag = defect.flag
    rows = [
        ("flag", f"{flag.kind} {flag.box}" + (f", mask {flag.mask}" if flag.mask else "")),
        ("said by", ": ".join(filter(None, (flag.source, flag.note))) or "nobody in particular"),
        ("shown", f"{box} (z, y, x)"),
        ("slabs", number(len(defect.rows))),
    ]  # fmt: skip
    for record in drawn.records:
        lines = [f"{record['status']} by run {record['run']}", f"record {Ledger.key(record['slab'])}"]
        lines += [f"weights {record['weights']}", f"recipe {record['recipe']}, seed {record['seed']}"]
        lines += [f"inputs sha256 {record['inputs_sha256']}"]
        lines += [f"left {number(p['voxels'])} voxels of z {p['z'][0]}:{p['z'][1]}: {p['why']}" for p in record["left"]]
        rows.append((f"slab {record['slab'][:12]}", "\n".join(lines)))
    return rows
