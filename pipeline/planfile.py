"""Plan file: a plan as JSON, one slab a line, so that people can read and compare two; a million lines take a second.

zmend/plans/<hash>.json     in a store; the one that is in force is `zmend.head`
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import PlanChangedError
from pipeline.files import split
from pipeline.plan import Plan, hashed
from pipeline.slabs import Slabs, ids_in
from pipeline.store import read_attrs

AT_ONCE = 1 << 22  # bytes of rows
SLABS, END = b',\n "slabs": [\n', b"\n]}\n"


def plan_path(out: str, plan_hash: str) -> str:
    """Where the store keeps a plan."""
    return f"{out}/zmend/plans/{plan_hash}.json"


def dump(plan: Plan) -> bytes:
    """A plan file: JSON, one slab a line, so that people can read and compare two."""
    text = BytesIO()  # which, unlike a bytearray, is not copied to become bytes: a million slabs are 120 MB
    text.write(_head(plan))
    for n, rows in enumerate(plan.slabs.blocks()):
        text.write((f",\n{rows}" if n else rows).encode())
    text.write(END)
    return text.getvalue()


def _head(plan: Plan) -> bytes:
    """What stands before the slabs."""
    return json.dumps({"hash": plan.hash, **plan.header}, indent=1)[:-2].encode() + SLABS


def put(out: str, plan: Plan) -> None:
    """Put a plan into a store, unless it lies there whole: to see that takes a quarter of what writing it anew does.

    Its header is compared, for where the source lies is no part of the hash.
    """
    files, key = split(plan_path(out, plan.hash))
    with suppress(PlanChangedError):
        if (files.read(key) or b"").startswith(_head(plan)) and _read(files.at(key), lambda rows: None)[1] == plan.hash:
            return
    files.keep(key, dump(plan))


def _parts(raw: bytes) -> tuple[dict[str, Any], Iterator[bytes]]:
    """A plan file's head, and the slabs' rows as JSON, thousands at once: a million would take gigabytes."""
    at, end = raw.find(SLABS), len(raw) - len(END)
    if at < 0 or raw[end:] != END:  # somebody laid it out anew
        body = json.loads(raw)
        rows = [json.dumps(row).encode() for row in body.pop("slabs")]
        return body, iter([b",\n".join(rows)] if rows else [])
    return json.loads(raw[:at] + b"}"), _lines(raw, at + len(SLABS), end)


def _lines(raw: bytes, at: int, end: int) -> Iterator[bytes]:
    while at < end:
        stop = raw.find(b",\n", min(at + AT_ONCE, end), end)
        stop = end if stop < 0 else stop
        yield raw[at:stop]
        at = stop + 2


def read_plan(path: str | Path, *, slabs: bool = True) -> Plan:
    """Read a plan file. Raises PlanChangedError if the file does not hash to what it says.

    slabs: whether they are wanted; a worker, who is sent its own, spares the time and the room.
    """
    parts = [Slabs.of(())]
    head, found = _read(str(path), lambda rows: parts.extend([Slabs.parse(rows)] if slabs else []))
    return Plan(head, Slabs.joined(parts), found)


def read_ids(path: str | Path) -> tuple[str, NDArray[np.bytes_]]:
    """The hash of a plan file and (n,) S16, its slabs' ids: half the time of `read_plan`, and raises as that does."""
    parts = [Slabs.of(()).ids]
    _, found = _read(str(path), lambda rows: parts.append(ids_in(rows)))
    return found, np.concatenate(parts)


def _read(path: str, take: Callable[[bytes], object]) -> tuple[dict[str, Any], str]:
    """Header and hash of a plan file; `take` is given its rows as JSON without spaces, thousands at once."""
    files, key = split(path)
    try:
        if (raw := files.read(key)) is None:
            raise FileNotFoundError("there is no such file")
        head, lines = _parts(raw)
        said = head.pop("hash")
        found = hashed(head, _compact(lines, take))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as e:
        raise PlanChangedError(
            "this is no plan",
            where=path,
            why=f"{type(e).__name__}: {e}",
            do="make one: zmend plan zmend.yaml --out plan.json",
        ) from e
    if found != said:
        raise PlanChangedError(
            "the plan file was edited",
            where=path,
            why=f"it says {said[:12]}, its content is {found[:12]}",
            do="edit zmend.yaml or the flags instead, and plan again",
        )
    return head, found


def _compact(lines: Iterator[bytes], take: Callable[[bytes], object]) -> Iterator[bytes]:
    for some in lines:
        rows = some.translate(None, b" \n")
        take(rows)
        yield rows


def current_plan(out: str) -> Plan:
    """The plan whose records are in force. Raises PlanChangedError if there is none."""
    return read_plan(current_path(out))


def current_path(out: str) -> str:
    """Where the plan in force lies. Raises PlanChangedError if there is none."""
    head = read_attrs(out).get("zmend", {}).get("head")
    if head and not re.fullmatch("[0-9a-f]{64}", str(head)):
        raise PlanChangedError(
            "the store names no plan",
            where=out,
            why=f"zmend.head is {head!r}, and plans are named after their hash: its attributes were edited",
            do="run again: the plan in force is named anew",
        )
    if not head:
        raise PlanChangedError("no run has begun in this store", where=out, do="run one: zmend run zmend.yaml")
    return plan_path(out, head)
