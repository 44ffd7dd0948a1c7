"""Flag file: what people and programs write down about damage, read with a place and a remedy for whatever is wrong.

A flags file (`zmend-flags/1`) is CSV, or a plain list of missing sections with one section or range a line:

    # zmend-flags/1                                        17
    z_start,z_stop,class,y_start,y_stop,x_start,x_stop     23:25
    17,18,missing,,,,
    40,41,fold,1000,3000,0,900

Ranges are half-open and counted from 0, in voxels of the level that is mended. The columns y_start, y_stop, x_start,
x_stop (none: the whole section), mask (a Zarr array whose nonzero voxels are damaged), source, note and verdict are
optional. A flag whose verdict is `reject` is read and left out: somebody looked, and nothing is wrong there. JSON that
other programs write is read too: see `flagreaders`.
"""

from __future__ import annotations

import codecs
import csv
import difflib
import io
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.box import ZYX, Box
from pipeline.errors import FlagError, ZmendError
from pipeline.files import split
from pipeline.flagreaders import Voxel, is_foreign, rows
from pipeline.flags import CLASSES, SCHEMA, Flag, Flags, MaskShape, mask_window, resolve

COLUMNS = ("z_start", "z_stop", "class", "y_start", "y_stop", "x_start", "x_stop", "mask", "source", "note")
VERDICT, VERDICTS = "verdict", ("accept", "reject")  # of a person who looked; zmend report --flags writes it


def load(
    path: str,
    *,
    shape: ZYX,
    voxel_nm: Voxel | None = None,
    mask_shape: MaskShape | None = None,
    none_is_fine: bool = False,
) -> Flags:
    """Read a flags file for a volume of `shape` (z, y, x); masks are looked up if `mask_shape` is given.

    voxel_nm: (z, y, x), for what other programs write in nm. none_is_fine: a table without a line, or of rejected flags
    alone, is not refused.
    Raises FlagError, which names file, line and column, for anything that is not understood.
    """
    text, file = _opened(path, shape, voxel_nm)
    return _parse(text, replace(file, none_is_fine=none_is_fine), mask_shape)


def review(path: str, *, shape: ZYX, voxel_nm: Voxel | None = None) -> list[Flag]:
    """Every flag of a file in its order, the rejected ones too, masks as they are written. Raises FlagError."""
    return _read(*_opened(path, shape, voxel_nm))


def table(path: str, *, shape: ZYX, passed: Callable[[str], Iterable[int]] = lambda _: ()) -> str:
    """The text of a flags file to which lines may be added, its lines parted by \\n; all of it is checked first.

    passed: the numbers, from 1, of lines that are not looked at. Raises FlagError as `load` does, and of a list.
    """
    file = replace(_File(path, shape, None), none_is_fine=True)
    text = re.sub(r"\r\n?", "\n", _decode(file))
    if all(_is_comment(line) or _is_blank(line) for line in text.split("\n")):
        return text
    left_out = set(passed(text))
    seen = "\n".join("" if n in left_out else line for n, line in enumerate(text.split("\n"), 1))
    if is_foreign(text) or _is_list(_lines(seen, file)[0][1]):
        why, do = "it adds lines to CSV with a header", "move it away, or name another file for scans to write"
        raise file.error(0, "a scan cannot add to this list", why=why, do=do)
    _read(seen, file)
    return text


def folder(path: str) -> str:
    """Where the mask paths of a flags file start from."""
    return path.rpartition("/")[0] if "://" in path else str(Path(path).absolute().parent)


def _opened(path: str, shape: ZYX, voxel_nm: Voxel | None) -> tuple[str, _File]:
    file = _File(path, shape, folder(path))
    text = _decode(file)
    return dump(rows(text, path, shape, voxel_nm, CLASSES)) if is_foreign(text) else text, file


def parse(text: str, *, shape: ZYX, name: str = "flags.csv", mask_shape: MaskShape | None = None) -> Flags:
    """Like `load`, of text that is already here; mask paths stay as they are written."""
    return _parse(text, _File(name, shape, None), mask_shape)


def dump(flags: Iterable[Mapping[str, object]]) -> str:
    """The text of a flags file of these rows, whose keys are COLUMNS (those left out become empty cells)."""
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    for row in flags:  # a cell holds no line break: one line of the file is one flag
        writer.writerow({key: " ".join(str(cell).splitlines()) for key, cell in row.items()})
    return f"# {SCHEMA}\n{out.getvalue()}"


@dataclass(frozen=True, slots=True)
class _File:
    """What the checks need to know of the file they read."""

    name: str
    shape: ZYX
    base: str | None  # the folder that mask paths start from
    none_is_fine: bool = False  # no flag at all

    def error(self, line: int, what: str, column: str = "", *, why: str, do: str) -> FlagError:
        parts = [self.name, *([f"line {line}"] if line else []), *([f"column {column}"] if column else [])]
        return FlagError(what, where=", ".join(parts), why=why, do=do)

    def span(self, axis: int, start: int, stop: int, line: int, columns: Sequence[str] = ("", "")) -> tuple[int, int]:
        """Check that [start, stop) is a range of this axis of the volume."""
        extent, text = self.shape[axis], f"{'zyx'[axis]} {start}:{stop}"
        column = columns[start >= 0]
        if start < 0 or stop < 0:
            why, do = "voxels are counted from 0", f"use 0 to {extent}"
            raise self.error(line, f"{text} is negative", column, why=why, do=do)
        if start >= stop:
            why = "ranges are half-open: stop is the first one that is no longer meant"
            do = f"for {start} alone write {start},{start + 1}" if start == stop else f"swap them: {stop},{start}"
            raise self.error(line, f"{text} is {'empty' if start == stop else 'reversed'}", column, why=why, do=do)
        if stop > extent:
            why = f"the volume is {self.shape} (z, y, x): {'zyx'[axis]} goes from 0 to {extent - 1}"
            do = "check that these flags were made for this volume at this level"
            if stop == extent + 1:
                why, do = f"{why}; the file may be 1-based", "if it counts from 1, subtract 1 from every start and stop"
            raise self.error(line, f"{text} leaves the volume", column, why=why, do=do)
        return start, stop

    def number(self, cell: str, line: int, column: str) -> int:
        """A whole number, or what is wrong with it."""
        if re.fullmatch(r"[+-]?[0-9]{1,18}", cell):
            return int(cell)
        why, do = next((why, do) for pattern, why, do in _NOT_NUMBERS if re.fullmatch(pattern, cell))
        do = do.format(digits=re.sub(r"[^0-9]", "", cell)[:18])
        raise self.error(line, f"{_show(cell)} is not a whole number", column, why=why, do=do)

    def choice(self, cell: str, choices: Sequence[str], noun: str, line: int, column: str = "") -> str:
        """The one of the choices that a cell names, in any case; what was probably meant if it names none."""
        if cell.lower() in choices:
            return cell.lower()
        near = difflib.get_close_matches(cell.lower()[:40], choices, n=1)
        what = f"unknown {noun} {_show(cell)}" if cell else f"the {noun} is empty"
        do = f"did you mean {near[0]!r}?" if near else "use one of them"
        raise self.error(line, what, column, why=f"there are {', '.join(choices)}", do=do)


# Cells that are no number: pattern, why, do. The last one matches everything.
_NOT_NUMBERS = (
    (r"", "the cell is empty", "fill it in, or remove the line"),
    (
        r"[0-9]{1,4}([-/.])[0-9]{1,2}\1[0-9]{1,4}|[0-9]{1,2}[-/][A-Za-z]{3}.*|[A-Za-z]{3}-[0-9]+",
        "it looks like a date: spreadsheets turn ranges like 3-4 into dates",
        "format the column as plain numbers and export it again",
    ),
    (r"[+-]?[0-9]{1,3}([ ,_'\xa0\u202f][0-9]{3})+", "thousands separators are not understood", "write {digits}"),
    (r"[+-]?[0-9]{19,}", "no volume is this large", "check the export that wrote it"),
    (
        r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?",
        "voxels are counted in whole numbers",
        "round it, without a point",
    ),
    (r"(?s:.*)", "it is text", "write digits only, such as 17; in a plain list one section or range 17:19 a line"),
)


def _parse(text: str, file: _File, mask_shape: MaskShape | None) -> Flags:
    flags = [f for f in _read(text, file) if f.verdict != "reject"]
    if not flags and not file.none_is_fine:
        why, do = "each has the verdict reject", "there is nothing to restore; flag something else, or accept one"
        raise file.error(0, "every flag of the file is rejected", why=why, do=do)
    _check_twice(flags, file)
    _check_overlap([f for f in flags if f.restorable and not f.mask], file)
    if mask_shape:
        _check_masks([f for f in flags if f.mask], file, mask_shape)
    return Flags.of(flags, base=file.base)


def _read(text: str, file: _File) -> list[Flag]:
    """The flags of all lines, at least one."""
    lines = _lines(text, file)
    number, first = lines[0]
    if _is_list(first):
        read = _list_reader(number, first, file)
    else:
        read, lines = _table_reader(number, first, file), lines[1:]
    flags = _each(read, lines)
    if not flags and not file.none_is_fine:
        why, do = "no line follows the header", "add one, such as 17,18,missing"
        raise file.error(number, "no flag in the file", why=why, do=do)
    return flags


def _is_list(first: str) -> bool:
    return bool(re.match(r"[\s\"]*[-+]?[0-9]", first))


def _is_comment(line: str) -> bool:
    return bool(re.match(r"[\s\"]*#", line))  # spreadsheets put quotes round what holds a comma


def _is_blank(line: str) -> bool:
    return not line.strip().strip(", \t")  # spreadsheets write empty rows as ,,,


def _lines(text: str, file: _File) -> list[tuple[int, str]]:
    """Number and text of the lines that are neither blank nor comments; at least one."""
    if "\0" in text:
        number, why = text[: text.index("\0")].count("\n") + 1, "a NUL byte: this is a binary file, or UTF-16"
        raise file.error(number, "this is not text", why=why, do="export it as CSV in UTF-8")
    kept = []
    for number, line in enumerate(re.split(r"\r\n|\r|\n", text.removeprefix("\ufeff")), 1):
        if _is_comment(line):
            _check_schema(number, line, file)
        elif not _is_blank(line):
            kept.append((number, line))
    if not kept:
        do = "write z_start,z_stop,class and then one line a flag, such as 17,18,missing"
        raise file.error(0, "no flag in the file", why="it holds nothing but space and comments", do=do)
    return kept


def _check_schema(number: int, line: str, file: _File) -> None:
    found = re.search(r"#\s*(zmend-flags/[^\s,\"]+)", line)
    if found and found[1] != SCHEMA:
        why = f"this version of zmend reads {SCHEMA}"
        raise file.error(number, f"the schema is {_show(found[1])}", why=why, do="convert the file, or update zmend")


def _each(read: Callable[[int, str], Flag], lines: Sequence[tuple[int, str]]) -> list[Flag]:
    """Read every line; raise the first trouble, with the number of those behind it."""
    flags: list[Flag] = []
    wrong: list[FlagError] = []
    for number, line in lines:
        try:
            flags.append(read(number, line))
        except FlagError as error:
            wrong.append(error)
    if len(wrong) > 1:
        wrong[0].why += f"; and {len(wrong) - 1} more {'line is' if len(wrong) == 2 else 'lines are'} wrong"
    if wrong:
        raise wrong[0]
    return flags


def _list_reader(number: int, first: str, file: _File) -> Callable[[int, str], Flag]:
    if re.search(r"[,;\t]", first):
        do = "begin with the line z_start,z_stop,class; or write one section or range 17:19 a line and no commas"
        raise file.error(number, "there is no header", why=f"the first line is {_show(first)}", do=do)

    def read(number: int, line: str) -> Flag:
        ends = [file.number(part.strip(), number, "") for part in line.split(":", 1)]
        start, stop = file.span(0, ends[0], ends[1] if len(ends) == 2 else ends[0] + 1, number)
        return Flag(Box.of(file.shape).with_z(start, stop), "missing", line=number)

    return read


def _table_reader(number: int, first: str, file: _File) -> Callable[[int, str], Flag]:
    header = _header(number, first, file)

    def read(number: int, line: str) -> Flag:
        cells = _cells(number, line, file)
        while len(cells) > len(header) and not cells[-1]:  # spreadsheets pad rows
            cells.pop()
        if len(cells) != len(header):
            what = f"too {'many' if len(cells) > len(header) else 'few'} cells"
            why = f"there are {len(cells)}, and the header has {len(header)}"
            do = 'leave cells empty (,,) rather than out, and put a cell that holds a comma in "quotes"'
            raise file.error(number, what, why=why, do=do)
        return _flag(number, dict(zip(header, cells, strict=True)), file)

    return read


def _header(number: int, line: str, file: _File) -> list[str]:
    for sign, typed, noun in ((";", ";", "semicolons"), ("\t", "\\t", "tabs")):
        if sign in line and "," not in line:
            do = f"export it with commas, or: tr '{typed}' ',' < {file.name} > commas.csv"
            raise file.error(number, f"the columns are parted by {noun}", why="zmend reads commas", do=do)
    header = [cell.lower() for cell in _cells(number, line, file)]
    while header and not header[-1]:
        header.pop()
    for i, cell in enumerate(header):
        file.choice(cell, (*COLUMNS, VERDICT), "column", number)
        if cell in header[:i]:
            what, why = f"column {cell!r} stands there twice", "it is not clear which one holds"
            raise file.error(number, what, why=why, do="remove one of them")
    for cell in COLUMNS[:3]:
        if cell not in header:
            why = f"z_start, z_stop and class are needed; there are {', '.join(header)}"
            do = f"add {cell} to the header and to every line"
            raise file.error(number, f"column {cell!r} is missing", why=why, do=do)
    return header


def _cells(number: int, line: str, file: _File) -> list[str]:
    try:
        return [cell.strip() for cell in next(csv.reader([line], strict=True, skipinitialspace=True))]
    except csv.Error as error:
        do = "close the quote in the same line (a cell holds no line break), or remove it"
        raise file.error(number, "a quote is not closed, or text follows it", why=f"csv: {error}", do=do) from error


def _flag(number: int, cells: Mapping[str, str], file: _File) -> Flag:
    z = _range(0, number, cells, file)
    y, x = (_range(axis, number, cells, file) for axis in (1, 2))
    (z0, z1), (y0, y1), (x0, x1) = (r or (0, n) for r, n in zip((z, y, x), file.shape, strict=True))
    kind = file.choice(cells["class"], CLASSES, "class", number, "class")
    mask, source, note, verdict = (cells.get(key, "") for key in ("mask", "source", "note", VERDICT))
    verdict = verdict and file.choice(verdict, VERDICTS, VERDICT, number, VERDICT)
    return Flag(Box((z0, y0, x0), (z1, y1, x1)), kind, mask, not (y or x), source, note, number, verdict)


def _range(axis: int, number: int, cells: Mapping[str, str], file: _File) -> tuple[int, int] | None:
    """[start, stop) of this axis; None if y or x is not given."""
    names = [f"{'zyx'[axis]}_{end}" for end in ("start", "stop")]
    texts = [cells.get(name, "") for name in names]
    if axis and not any(texts):
        return None
    if axis and not all(texts):
        given, absent = names if texts[0] else names[::-1]
        why, do = f"{given} is given without {absent}", f"give both, or neither for all of {'zyx'[axis]}"
        raise file.error(number, "half a box", absent, why=why, do=do)
    start, stop = (file.number(text, number, name) for text, name in zip(texts, names, strict=True))
    return file.span(axis, start, stop, number, names)


def _check_twice(flags: Sequence[Flag], file: _File) -> None:
    seen: dict[tuple[Box, str, str], Flag] = {}
    for flag in flags:
        first = seen.setdefault((flag.box, flag.kind, flag.mask), flag)
        if first is not flag:
            why = f"lines {first.line} and {flag.line} both say {flag.kind} of {flag.box}"
            raise file.error(flag.line, "flagged twice", why=why, do=f"remove line {flag.line}")


def _check_overlap(flags: Sequence[Flag], file: _File) -> None:
    """Two boxes of different classes may share no voxel."""
    pairs = (pair for block in _neighbours(flags) for pair in block)
    for i, j in pairs:
        one, two = sorted((flags[i], flags[j]), key=lambda f: f.line)
        why = f"lines {one.line} ({one.kind}) and {two.line} ({two.kind}) share the voxels {one.box & two.box}"
        do = f"keep the one that is right, cut line {two.line} to where it holds, or give a mask"
        raise file.error(two.line, "two classes for the same voxels", why=why, do=do)


def _neighbours(flags: Sequence[Flag]) -> Iterator[NDArray[np.intp]]:
    """Index pairs (n, 2) of flags of different classes whose boxes meet, in blocks of bounded size."""
    if len({f.kind for f in flags}) < 2:
        return
    start, stop = (np.array([getattr(f.box, end) for f in flags]) for end in ("start", "stop"))  # (n, zyx)
    kind = np.array([CLASSES.index(f.kind) for f in flags])
    # Of two that meet on an axis, one starts inside the other; the axis with the fewest such pairs is walked.
    order = np.argsort(start, axis=0, kind="stable")
    after = np.stack([np.searchsorted(start[o, a], stop[o, a]) for a, o in enumerate(order.T)], 1)
    counts = after - np.arange(len(flags))[:, None] - 1
    axis = int(counts.sum(0).argmin())
    order, count = order[:, axis], counts[:, axis]
    total = count.cumsum()
    for part in np.split(np.arange(len(flags)), np.searchsorted(total, np.arange(1 << 20, total[-1], 1 << 20))):
        first = np.repeat(part, count[part])
        step = np.arange(first.size) - np.repeat(count[part].cumsum() - count[part], count[part])
        i, j = order[first], order[first + 1 + step]
        meet = (kind[i] != kind[j]) & (np.maximum(start[i], start[j]) < np.minimum(stop[i], stop[j])).all(1)
        yield np.stack([i[meet], j[meet]], 1)


def _check_masks(flags: Sequence[Flag], file: _File, mask_shape: MaskShape) -> None:
    known: dict[str, ZYX] = {}
    for flag in flags:
        uri = resolve(flag.mask, file.base)
        try:
            known[uri] = known.get(uri) or mask_shape(uri)
            end = known[uri][0] * mask_window(known[uri], file.shape, flag.box)[1][0]
            if end < flag.box.stop[0]:
                why, do = f"it ends at section {end}", f"cut the flag at {end}, or make the mask longer"
                raise FlagError("the mask ends before its flag", why=why, do=do)
        except FlagError as error:
            raise file.error(flag.line, error.what, "mask", why=f"{uri}: {error.why}", do=error.do) from error
        except (ZmendError, OSError, LookupError, ValueError) as error:
            do = "check the path: it is relative to the flags file, absolute, or a URL"
            raise file.error(
                flag.line, f"mask {_show(flag.mask)} cannot be opened", "mask", why=str(error), do=do
            ) from error


def _decode(file: _File) -> str:
    """The text of the file: UTF-8, with or without a byte order mark."""
    data = _bytes(file)
    if data[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        why, do = (
            "zmend reads UTF-8; some spreadsheets export UTF-16",
            f"iconv -f UTF-16 -t UTF-8 {file.name} > utf8.csv",
        )
        raise file.error(0, "the file is UTF-16", why=why, do=do)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        why = f"byte {data[error.start]:#04x} cannot stand there"
        raise file.error(line, "this is not text in UTF-8", why=why, do="export it as CSV in UTF-8") from error


def _bytes(file: _File) -> bytes:
    do = "check the path `flags:` in zmend.yaml"
    files, key = split(file.name)
    try:
        raw = files.read(key)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path, or a server that refuses
        raise file.error(0, "the flags file cannot be read", why=str(error), do=do) from error
    if raw is None and files.local is not None and (files.local / key).is_dir():
        do = "name the file in it; a Zarr mask goes into the column `mask` of its line"
        raise file.error(0, "the flags file is a folder", why="a CSV file is read", do=do)
    if raw is None:
        raise file.error(0, "the flags file cannot be read", why="No such file", do=do)
    return raw


def _show(cell: str) -> str:
    return repr(cell if len(cell) <= 40 else cell[:37] + "...")
