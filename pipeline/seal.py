"""Seal: sha256 of every document of a store, so that one byte that is changed in any of them shows, blanks included.

    zmend/seal.json     {"schema", "documents": {key: sha256}, "digest"}

Chunks, flags, packs and loose records are bound by digests of their own; documents that zarr, OME or a merge keep are
bound here. A store is sealed when whoever wrote in it ends, and the seal is taken away while somebody writes. Whoever
knows the seal's digest from elsewhere knows that all documents are what they were.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from hashlib import sha256
from types import TracebackType
from typing import Any

from pipeline.errors import StoreLockedError, VolumeError
from pipeline.files import PROBES, Files
from pipeline.recipe import digest
from pipeline.store import DOCUMENTS, LABELS, OVERLAY, UNCERTAINTY, read_attrs, update_attrs

SCHEMA = "zmend-seal/1"
KEY = "zmend/seal.json"
REMADE = ("zmend/certificate.json", "zmend/merge.json")  # by a run, where they are not there


class Seal:
    """Held by whoever writes in a store, inside its lock: takes the seal away, and seals the store anew at the end.

    What does not match the old seal is told, and removed where it is made anew. Then only an end without an error
    seals: a run that is refused must not vouch for what somebody else has changed.
    """

    def __init__(
        self,
        out: str,
        tell: Callable[[dict[str, Any]], None] = lambda _: None,
        held: Callable[[], None] = lambda: None,  # raises StoreLockedError where the store is another run's by now
    ) -> None:
        self.out, self._tell, self._held, self._good = out, tell, held, True

    def __enter__(self) -> Seal:
        files = Files(self.out)
        self._good = not broken(self.out)
        for wrong in changed(self.out):
            self._good = False
            text = f"{wrong} is not what the last run left; if nobody meant that, stop"
            self._tell({"kind": "warning", "text": text})
            if wrong in REMADE:
                files.delete(wrong)
        files.delete(KEY)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            put(self.out, self._held)
        elif self._good:
            with suppress(StoreLockedError):
                put(self.out, self._held)


def put(out: str, held: Callable[[], None] = lambda: None) -> None:
    """Seal a store as it is. held: asked before each document; raises where the store is another run's by now."""
    held()
    if _said(out).get("seal") != SCHEMA:
        update_attrs(out, zmend={"seal": SCHEMA})  # from here on a store without a seal is one that is written in
        held()
    Files(out).keep(KEY, _text({"schema": SCHEMA, "documents": documents(out)}))


def broken(out: str) -> bool:
    """Whether a store that should be sealed is not: a run is at work, or was killed."""
    return Files(out).stat(KEY) is None and _said(out).get("seal") is not None


def changed(out: str) -> list[str]:
    """Keys of documents that are not what they were when the store was sealed; none where there is no seal."""
    try:
        sealed = _read(out)
    except VolumeError:
        return [KEY]
    if sealed is None:
        return []
    now = documents(out)
    return [key for key in sorted({**sealed, **now}) if sealed.get(key) != now.get(key)]


def documents(out: str) -> dict[str, str]:
    """sha256 of each document that a seal binds, by key."""
    files, keys = Files(out), list(_keys(out))
    with ThreadPoolExecutor(PROBES if files.local is None else 1) as pool:
        found = dict(zip(keys, pool.map(files.read, keys), strict=True))
    return {key: sha256(raw).hexdigest() for key, raw in found.items() if raw is not None}


def _keys(out: str) -> Iterator[str]:
    """Of all documents that there may be: what describes groups and arrays, the plan in force, what a run leaves."""
    files = Files(out)
    levels = [name for name in files.names() or () if name.isdecimal()]
    coarser = [f"{LABELS}/{name}" for name in (files / LABELS).names() or () if name.isdecimal()]
    for folder in ("", *levels, "zmend", OVERLAY, UNCERTAINTY, "labels", LABELS, *coarser):
        yield from (f"{folder}/{name}".lstrip("/") for name in DOCUMENTS)
    head = str(_said(out).get("head"))
    yield from [f"zmend/plans/{head}.json"] if re.fullmatch("[0-9a-f]{64}", head) else []
    yield from (*REMADE, "zmend/review.json")


def _said(out: str) -> dict[str, Any]:
    """What the store says in `zmend`; nothing where that cannot be read."""
    try:
        said = read_attrs(out).get("zmend")
    except VolumeError:
        return {}
    return said if isinstance(said, dict) else {}


def _read(out: str) -> dict[str, str] | None:
    files = Files(out)
    raw = files.read(KEY)
    if raw is None:
        return None
    try:
        body: dict[str, Any] = json.loads(raw)
        said = body.pop("digest")
        documents: dict[str, str] = body["documents"]
        good = said == digest(body) and raw == _text(body)
    except (ValueError, KeyError, TypeError, AttributeError):
        good = False
    if not good:
        raise VolumeError("the seal is not what was written", where=files.at(KEY), do="run again: it is made anew")
    return documents


def _text(body: dict[str, Any]) -> bytes:
    return json.dumps({**body, "digest": digest(body)}, indent=1).encode()
