"""Sheet: a flags file as a contact sheet, to accept and reject from before an hour of GPU is spent."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.box import Box
from pipeline.errors import UsageError, ZmendError
from pipeline.flagfile import COLUMNS, folder, review
from pipeline.flags import Flag, address, mask_window, meant, resolve, upsample
from pipeline.intensity import measure
from pipeline.report.defects import sections
from pipeline.report.mended import place
from pipeline.report.page import check_target, file_name, number, render, write
from pipeline.report.pictures import Purse, greys, outline, shrunk
from pipeline.report.window import lateral
from pipeline.volume import Volume

MOST = 50_000  # flags of one page
PICTURE_BYTES, ONE_BYTES = 15_000_000, 45_000  # of all pictures, as text, and of one flag's
EDGES = ((60, 320), (400, 200), (1500, 128), (MOST, 96))  # (up to so many flags, px of a section's thumbnail)
MASK_VOXELS = 16 << 20  # of a mask that is looked through for where it is
LEAST_BYTES = 2500  # a picture of fewer shows nothing

Json = dict[str, Any]


def contact_sheet(flags: str, volume: str, to: str, *, level: int = 0) -> Json:
    """Write the contact sheet of a flags file of a volume's level to the file `to`; returns what is in it.

    Raises FlagError, VolumeError, and UsageError where `to` is something else or the flags are too many.
    """
    began = time.perf_counter()
    source = Volume.open(volume, level=level)
    check_target(to, source.root)
    found = review(flags, shape=source.shape, voxel_nm=source.voxel_nm)
    if len(found) > MOST:
        do = "split the file by sections, and look at each part"
        raise UsageError(f"{len(found)} flags are more than a page holds", where=flags, why=f"it holds {MOST}", do=do)
    found.sort(key=lambda f: (_score(f) is not None, _score(f) or 0.0, f.box))
    looker = Looker(source, folder(flags), found)
    cards = [_card(flag, n, looker.look(flag)) for n, flag in enumerate(found)]
    for place_of, card in enumerate(sorted(cards, key=lambda c: c["at"])):
        card["place"] = place_of
    pictured = sum(bool(card["image"]) for card in cards)
    size = write(to, render("sheet.html", _document(flags, source, found, cards, pictured)))
    return {
        "report": str(to), "flags": len(found), "pictured": pictured, "bytes": size,
        "seconds": round(time.perf_counter() - began, 2),
    }  # fmt: skip


class Looker:
    """Looks at one flag after the other, as long as the page has room for pictures."""

    def __init__(self, source: Volume, base: str, flags: Sequence[Flag]) -> None:
        self.source, self.base = source, base
        self.edge = next(px for most, px in EDGES if len(flags) <= most)
        self.purse = Purse(PICTURE_BYTES)
        self.share = max(LEAST_BYTES, min(ONE_BYTES, PICTURE_BYTES // max(1, len(flags))))
        self.window = (0.0, 255.0) if source.dtype == np.uint8 else measure(source)
        self.masks: dict[str, Volume] = {}

    def look(self, flag: Flag) -> Json:
        """The picture of the section before, the flagged one and the one after, and the outline in the middle one."""
        z = (flag.box.start[0] + flag.box.stop[0] - 1) // 2
        if self.purse.left < self.share:
            return {"image": "", "path": "", "aspect": "3 / 1", "why": ""}
        layer = flag.box.with_z(z, z + 1)
        box = lateral(layer, self._centre(flag, layer), self.source.shape, self.edge)
        mask, why = self._mask(flag, box)
        images = [self._section(box, at) for at in (flag.box.start[0] - 1, z, flag.box.stop[0])]
        uris = self.purse.spend({"trio": np.concatenate(images, axis=1)}, self.share) or {"trio": ""}
        _, height, width = box.shape
        return {
            "image": uris["trio"], "aspect": f"{3 * width} / {height}", "why": why,
            "path": outline(mask) if mask.any() and not mask.all() else "",
        }  # fmt: skip

    def _section(self, box: Box, z: int) -> NDArray[np.uint8]:
        """The window in one section, black beyond the volume."""
        if not 0 <= z < self.source.shape[0]:
            return shrunk(np.zeros(box.shape[1:], np.uint8), self.edge)
        return shrunk(greys(self.source.read(box.with_z(z, z + 1))[0], *self.window), self.edge)

    def _centre(self, flag: Flag, layer: Box) -> tuple[int, int]:
        """Where the flag's box has its middle, or its mask, where that can be read at once."""
        y, x = ((a + b) // 2 for a, b in zip(layer.start[1:], layer.stop[1:], strict=True))
        if flag.mask and layer.size <= MASK_VOXELS and (seen := self._mask(flag, layer)[0]).any():
            y, x = (int(np.median(i)) + a for i, a in zip(np.nonzero(seen), layer.start[1:], strict=True))
        return y, x

    def _mask(self, flag: Flag, box: Box) -> tuple[NDArray[np.bool_], str]:
        """What is flagged in the window, and why the mask cannot be shown, if it cannot."""
        seen = np.zeros(box.shape, bool)
        here = flag.box & box
        if not flag.mask:
            seen[here.within(box)] = True
            return seen[0], ""
        uri = resolve(flag.mask, self.base)
        try:
            mask = self._open(uri)
            coarse, factors = mask_window(mask.shape, self.source.shape, here)
            seen[here.within(box)] = upsample(meant(uri, mask.read(coarse)), factors, here)
        except (ZmendError, OSError) as error:
            return seen[0], f"its mask cannot be shown: {getattr(error, 'what', error)}"
        return seen[0], ""

    def _open(self, uri: str) -> Volume:
        if uri not in self.masks:
            self.masks[uri] = Volume.open(address(uri), mask=True)
        return self.masks[uri]


def _card(flag: Flag, row: int, seen: Json) -> Json:
    z0, z1 = flag.box.start[0], flag.box.stop[0]
    middle = (z0 + z1 - 1) // 2
    score = _score(flag)
    return {
        "id": row, "at": flag.box, "class": flag.kind, "score": "" if score is None else f"{score:g}",
        "sections": f"section{'s' if z1 - z0 > 1 else ''} {sections([(z0, z1)])}",
        "where": place(flag) + (f", said by {flag.source}" if flag.source else ""),
        "note": ". ".join(filter(None, (flag.note, seen["why"]))),
        "previous": f"previous, z {z0 - 1}" if z0 else "the volume begins here",
        "section": f"flagged, z {middle}", "next": f"next, z {z1}",
        "image": seen["image"], "path": seen["path"], "aspect": seen["aspect"],
    }  # fmt: skip


def _score(flag: Flag) -> float | None:
    """How sure whoever flagged was, as `zmend scan` writes it; 1 is at its threshold."""
    said = re.match(r"score ([0-9]+(?:\.[0-9]+)?)", flag.note)
    return float(said[1]) if said else None


def _document(flags: str, source: Volume, found: Sequence[Flag], cards: list[Json], pictured: int) -> Json:
    name = flags.rpartition("/")[2]
    rest = "" if pictured == len(cards) else f" {number(pictured)} have pictures, the least sure; the rest is words."
    return {
        "title": name,
        "sentence": f"{number(len(found))} flags of {source.root.uri.rpartition('/')[2]}, nothing restored yet. "
        "Which of them are damage?",
        "remark": "Each: the section before, the flagged one with its outline, the one after." + rest,
        "classes": Counter(f.kind for f in found).most_common(),
        "cards": cards,
        "relative": any(f.mask and resolve(f.mask, "/x") != f.mask for f in found),
        "volume": source.root.uri,
        "version": metadata.version("zmend"),
        "made": time.strftime("%Y-%m-%d %H:%M"),
        "data": {
            "what": "flags", "file": file_name(Path(name).stem) + ".csv", "table": "", "plan": "",
            "before": "# zmend-flags/1\n", "header": COLUMNS, "tail": ["verdict"], "rest": [],
            "items": {str(n): [_cells(f)] for n, f in enumerate(found)},
            "verdicts": {str(n): f.verdict for n, f in enumerate(found) if f.verdict},
        },
    }  # fmt: skip


def _cells(flag: Flag) -> list[Any]:
    """The line of the flags file, as it was but for its verdict."""
    (z0, y0, x0), (z1, y1, x1) = flag.box.start, flag.box.stop
    return [z0, z1, flag.kind, *(("",) * 4 if flag.whole else (y0, y1, x0, x1)), flag.mask, flag.source, flag.note]
