"""Flag edit: a flags file that a scan renews while people edit it. Text in, text out.

Of each section three things are compared: what the scan wrote last, what the file says now, what is found now. Where
nothing new is found the file stays as it is; where a person has changed, judged or added anything, the person is right.
"""

from __future__ import annotations

import csv
import io
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from pipeline.flagfile import COLUMNS, dump
from pipeline.flags import KEEP

SOURCE = "zmend scan"
JUMPED = "from section {z} on the stack lies elsewhere"
JUMP = f"# {JUMPED}{{by}}: align it; nothing to restore"
NOTE = re.compile(re.escape(JUMP).replace(re.escape("{z}"), r"\d+").replace(re.escape("{by}"), "[^:]*"))

Cells = Mapping[str, object]


@dataclass
class Line:
    """A flag of the file: its text, and what it says."""

    text: str
    cells: dict[str, str]
    number: int = 0  # in the file, from 1

    @property
    def section(self) -> int:
        """Where it begins; -1 where that is no number."""
        return int(self.cells["z_start"]) if self.cells.get("z_start", "").isdecimal() else -1

    @property
    def ours(self) -> bool:
        """Whether a scan wrote it."""
        return self.cells.get("source") == SOURCE


@dataclass
class FlagText:
    """A flags file, line by line."""

    head: list[str] = field(default_factory=list)  # up to the header
    header: list[str] = field(default_factory=list)
    lines: list[Line | str] = field(default_factory=list)  # flags, and comments between them

    @staticmethod
    def of(text: str) -> FlagText:
        self = FlagText()
        for number, raw in enumerate(text.removeprefix("\ufeff").removesuffix("\n").split("\n"), 1):
            comment = raw.lstrip(' "').startswith("#") or not raw.strip(", \t")
            if comment and NOTE.fullmatch(raw.strip(' ",\t')):  # a scan's own; it says it again
                continue
            if comment:
                (self.lines if self.header else self.head).append(raw)
            elif not self.header:
                self.header = [cell.strip().lower() for cell in _cells(raw)]
            else:
                cells = dict(zip(self.header, (c.strip() for c in _cells(raw)), strict=False))
                self.lines.append(Line(raw, cells, number))
        self._widen()
        return self

    def _widen(self) -> None:
        """Give the file the columns that it lacks."""
        lacks = [c for c in COLUMNS if c not in self.header]
        self.header += lacks
        for line in self.lines:
            if isinstance(line, Line):
                line.text += "," * len(lacks)

    def text(self, jumps: Mapping[int, str]) -> str:
        body = [line.text if isinstance(line, Line) else line for line in self.lines]
        said = "\n".join(line for line in (*self.head, *self.lines) if isinstance(line, str))
        notes = [JUMP.format(z=z, by=by) for z, by in sorted(jumps.items()) if JUMPED.format(z=z) not in said]
        return "\n".join([*self.head, ",".join(self.header), *body, *notes]) + "\n"

    @property
    def flags(self) -> list[Line]:
        return [line for line in self.lines if isinstance(line, Line)]

    def said(self) -> dict[int, Counter[tuple[str, ...]]]:
        """What it says of each section in a scan's name, verdicts included."""
        found: dict[int, Counter[tuple[str, ...]]] = defaultdict(Counter)
        for line in self.flags:
            if line.ours:
                found[line.section][_key(line.cells)] += 1
        return found

    def foreign(self) -> set[int]:
        """Sections of which people say, in their own name, that something is to be restored."""
        spans = [line.cells for line in self.flags if not line.ours and line.cells.get("class", "").lower() != KEEP]
        ends = [(c.get("z_start", ""), c.get("z_stop", "")) for c in spans]
        return {z for a, b in ends if a.isdecimal() and b.isdecimal() for z in range(int(a), int(b))}

    def drop(self, section: int) -> None:
        self.lines = [n for n in self.lines if not (isinstance(n, Line) and n.ours and n.section == section)]

    def add(self, row: Cells) -> None:
        """Before the first line of a later section that a scan wrote."""
        cells = {key: _flat(value) for key, value in row.items()}
        line = Line(_joined([cells.get(column, "") for column in self.header]), cells)
        after = (i for i, n in enumerate(self.lines) if isinstance(n, Line) and n.ours and n.section > line.section)
        self.lines.insert(next(after, len(self.lines)), line)


@dataclass(frozen=True)
class Renewed:
    """A flags file after a scan, and what became of it."""

    text: str
    new: list[Cells]  # rows that the file has now, and had not
    gone: int
    held: list[int]  # sections of which something else is found now, and that stay as a person left them


def held(text: str, before: Iterable[Cells]) -> set[int]:
    """Sections in which people have been since the rows `before` were written."""
    file = FlagText.of(text)
    return file.foreign() | _changed(file, before)


def _changed(file: FlagText, before: Iterable[Cells]) -> set[int]:
    said, wrote = file.said(), _by_section(before)
    return {z for z in {*said, *wrote} if said.get(z, Counter()) != wrote.get(z, Counter())}


def beyond(text: str, before: Iterable[Cells], depth: int) -> list[int]:
    """Numbers of the lines that a scan wrote, and nobody has changed, of sections that the volume no longer has."""
    file = FlagText.of(text)
    theirs = _changed(file, before)  # the ranges that people wrote are not checked yet, and may be of any length
    return [n.number for n in file.flags if n.ours and n.section >= depth and n.section not in theirs]


def masked(text: str) -> list[tuple[int, str]]:
    """Section and mask of every flag that has one and is not rejected."""
    holds = (n for n in FlagText.of(text).flags if n.cells.get("verdict", "").lower() != "reject")
    return [(line.section, line.cells["mask"]) for line in holds if line.cells.get("mask")]


def renewed(text: str, before: Iterable[Cells], now: Iterable[Cells], jumps: Mapping[int, str]) -> Renewed:
    """The file with what is found now in the place of what the scan wrote before.

    text: as it is; empty for a file that is still to be made. before, now: rows of flags, one section each. jumps: by
    section, where else the stack lies from there on, in words.
    """
    before, now = list(before), list(now)
    theirs = held(text, before) if text else set()
    file = FlagText.of(text or dump([]))
    was, found = _by_section(before if text else ()), _by_section(now)
    changed = {z for z in {*was, *found} if was.get(z, Counter()) != found.get(z, Counter())}
    ours = changed - theirs
    for z in ours:
        file.drop(z)
    fresh = [row for row in now if int(str(row["z_start"])) in ours]
    for row in fresh:
        file.add(row)
    return Renewed(
        file.text(jumps),
        new=[row for row in fresh if not any(one & was.get(z, Counter()) for z, one in _by_section([row]).items())],
        gone=sum((was.get(z, Counter()) - found.get(z, Counter())).total() for z in ours),
        held=sorted(changed & theirs),
    )


def _by_section(rows: Iterable[Cells]) -> dict[int, Counter[tuple[str, ...]]]:
    found: dict[int, Counter[tuple[str, ...]]] = defaultdict(Counter)
    for row in rows:
        found[int(str(row["z_start"]))][_key({key: _flat(value) for key, value in row.items()})] += 1
    return found


def _key(cells: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(cells.get(column, "") for column in (*COLUMNS, "verdict"))


def _flat(value: object) -> str:
    """A cell as `flagfile.dump` writes it, and as it is read back."""
    return " ".join(str(value).splitlines()).strip()


def _cells(raw: str) -> list[str]:
    return next(csv.reader([raw], skipinitialspace=True), [])


def _joined(cells: Iterable[str]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="").writerow(cells)
    return out.getvalue()
