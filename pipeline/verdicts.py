"""Verdicts: what a reviewer says of each defect, slab by slab, as the report exports it.

    defect,slab,z0,z1,y0,y1,x0,x1,verdict,note
    3,9f2c…,12,13,0,8192,0,8192,reject,membranes smeared

A slab is rejected where one of its rows is, and accepted where all of its rows are. Rows without a verdict are of
defects that nobody has judged: their slab is neither. Of the columns only `slab` and `verdict` must be there.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from io import StringIO
from typing import Any

from pipeline.box import Box
from pipeline.errors import VerdictError
from pipeline.files import split
from pipeline.slabs import Slab, Slabs

VERDICTS = {"accept": "accept", "accepted": "accept", "reject": "reject", "rejected": "reject", "": ""}
BOX = ("z0", "z1", "y0", "y1", "x0", "x1")
LARGEST = 256 << 20  # bytes: far more than a million rows


@dataclass(frozen=True)
class Verdicts:
    """A reviewer's verdicts on the slabs of one plan. accepted: ids. rejected: ids and why."""

    digest: str  # sha256 of the file
    text: bytes  # the file
    accepted: frozenset[str]
    rejected: dict[str, str]


@dataclass(frozen=True)
class _Row:
    line: int
    slab: str
    verdict: str
    note: str
    box: Box | None


def read(path: str, slabs: Slabs) -> Verdicts:
    """The verdicts in a file, checked against the slabs of the plan in force. Raises VerdictError."""
    raw = _bytes(path)
    rows = list(_rows(raw, path))
    _check(rows, slabs, path)
    rejected = {r.slab: r.note for r in reversed(rows) if r.verdict == "reject"}
    blank = {r.slab for r in rows if r.verdict != "accept"}
    return Verdicts(sha256(raw).hexdigest(), raw, frozenset({r.slab for r in rows} - blank), rejected)


def _bytes(path: str) -> bytes:
    files, key = split(path)
    raw = files.read(key)
    if raw is None or len(raw) > LARGEST:
        raise VerdictError(
            "there is no such file of verdicts" if raw is None else "this is too large for a file of verdicts",
            where=path,
            do="export one from the report of the store: zmend report",
        )
    return raw


def _rows(raw: bytes, path: str) -> Iterator[_Row]:
    try:
        reader = csv.DictReader(StringIO(raw.decode("utf-8-sig")), strict=True)
        missing = {"slab", "verdict"} - set(reader.fieldnames or ())
        if missing:
            raise VerdictError(
                f"the verdicts have no column {' and no column '.join(sorted(missing))}",
                where=f"{path} line 1",
                why=f"its header is {','.join(reader.fieldnames or ()) or 'empty'}",
                do="the header is defect,slab,z0,z1,y0,y1,x0,x1,verdict,note; only slab and verdict must be there",
            )
        for row in reader:
            yield _row(row, f"{path} line {reader.line_num}", reader.line_num)
    except (UnicodeDecodeError, csv.Error) as e:
        raise VerdictError("the verdicts are no CSV file", where=path, why=str(e), do="export them again") from e


def _row(row: dict[str | None, Any], where: str, line: int) -> _Row:
    text = {k: (v or "").strip() for k, v in row.items() if isinstance(k, str) and (v is None or isinstance(v, str))}
    said = text["verdict"].lower()
    if said not in VERDICTS:
        raise VerdictError(f"'{text['verdict']}' is no verdict", where=where, do="write accept, reject, or nothing")
    try:
        numbers = [int(text[k]) for k in BOX if text.get(k)]
    except ValueError as e:
        raise VerdictError("a corner of a box is no whole number", where=where, why=str(e), do="export it again") from e
    box = _box(*numbers) if len(numbers) == len(BOX) else None
    return _Row(line, text["slab"], VERDICTS[said], text.get("note", ""), box)


def _box(z0: int, z1: int, y0: int, y1: int, x0: int, x1: int) -> Box:
    return Box((z0, y0, x0), (z1, y1, x1))


def _check(rows: list[_Row], slabs: Slabs, path: str) -> None:
    """Every row must be of a slab of this plan, and lie in it."""
    wanted = {r.slab for r in rows}
    known = {s.id: s for s in slabs if s.id in wanted}
    strange = [r for r in rows if r.slab not in known]
    if strange:
        raise VerdictError(
            f"{len({r.slab for r in strange})} of {len(wanted)} slabs are not of the plan in force, "
            f"the first is '{strange[0].slab}'",
            where=f"{path} line {strange[0].line}",
            why="flags, recipe, weights or source changed since the review, or it was of another store",
            do="review what is there now: make the report anew",
        )
    for r in rows:
        _check_box(r, known[r.slab], path)


def _check_box(row: _Row, slab: Slab, path: str) -> None:
    if row.box is not None and not (row.box & slab.write).size:
        raise VerdictError(
            f"the box {row.box} does not touch slab {row.slab}",
            where=f"{path} line {row.line}",
            why=f"the slab is {slab.write}: the file was edited, or it is of another store",
            do="export it again",
        )
