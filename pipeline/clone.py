"""Clone: bring an object from one place to another as cheaply as the two allow: by link, reflink, within the server,
or through this machine. Never in place: what is there is replaced at once."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal
from uuid import uuid4

from pipeline.errors import VolumeError
from pipeline.files import Files
from pipeline.objects import Stored

Clone = Literal["auto", "link", "copy"]
Brought = Literal["linked", "copied", ""]  # "": it was there already
FICLONE = 0x40049409  # ioctl of Linux: share the blocks of another file, copy on write


def bring(
    source: Files, target: Files, objects: Sequence[Stored], clone: Clone, *, anew: bool = False
) -> list[tuple[Stored, Brought]]:
    """Make the objects of `source` objects of `target`, under the same keys; which of them came over, and how.

    anew: also what seems to be there, by size and time, which rot does not change.
    Raises VolumeError where they are to be linked, and cannot be.
    """
    there = [None] * len(objects) if anew else target.stats([s.key for s in objects])
    return [(s, _one(source, target, s, old, clone)) for s, old in zip(objects, there, strict=True)]


def _one(source: Files, target: Files, stored: Stored, there: Stored | None, clone: Clone) -> Brought:
    if target.local is not None:
        # A link shares size and time with its source, a copy is given the source's time.
        if there is not None and stored.mtime_ns and there[1:3] == stored[1:3]:
            return ""
        new = there is None and clone != "copy" and source.local is not None
        if new and _linked_at_once(f"{source.local}/{stored.key}", f"{target.local}/{stored.key}"):
            return "linked"
        return _to_disk(source, target.local / stored.key, stored, clone)
    return _to_bucket(source, target, stored, there, clone)


def _to_bucket(source: Files, target: Files, stored: Stored, there: Stored | None, clone: Clone) -> Brought:
    if clone == "link":
        raise _no_links(source.at(stored.key), target.uri, "an object store has no links")
    if there is not None and stored.etag and there[1::2] == stored[1::2]:  # size and ETag: the same bytes
        return ""
    if source.bucket is not None and target.bucket is not None and target.bucket.copy(source.bucket, stored.key):
        return "copied"
    data = source.read(stored.key) or b""
    if there is not None and there.etag.strip('"') == hashlib.md5(data, usedforsecurity=False).hexdigest():
        return ""  # the ETag of what was written by one PUT, unless it is encrypted: then it is written again
    target.put(stored.key, data)
    return "copied"


def _to_disk(source: Files, target: Path, stored: Stored, clone: Clone) -> Brought:
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{uuid4().hex}.partial")
    try:
        how = _into(source, temporary, stored, clone)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)  # a rename onto a link of the same file leaves both names
    return how


def _into(source: Files, target: Path, stored: Stored, clone: Clone) -> Brought:
    origin = None if source.local is None else (source.local / stored.key).resolve()  # a link to a symlink would dangle
    if origin is not None and clone != "copy" and _linked(origin, target, clone):
        return "linked"
    if origin is None:
        target.write_bytes(source.read(stored.key) or b"")
    elif clone != "auto" or not _reflinked(origin, target):
        shutil.copyfile(origin, target)
    if stored.mtime_ns:
        os.utime(target, ns=(stored.mtime_ns, stored.mtime_ns))
    return "copied"


def _linked_at_once(origin: str, target: str) -> bool:
    """Link where nothing is yet: one call, and a volume has a billion chunks. False where more must be done."""
    if os.path.islink(origin):  # noqa: PTH114  (a Path costs more than the system call)
        return False
    try:
        os.link(origin, target)
    except FileNotFoundError:
        Path(target).parent.mkdir(parents=True, exist_ok=True)
        return False
    except OSError:
        return False
    return True


def _linked(origin: Path, target: Path, clone: Clone) -> bool:
    try:
        target.hardlink_to(origin)
        return True
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.EACCES, errno.ENOSYS):
            raise
        if clone == "auto":
            return False
        raise _no_links(str(origin), str(target), str(error)) from error


def _no_links(origin: str, target: str, why: str) -> VolumeError:
    return VolumeError(
        "chunks cannot be hard-linked",
        where=f"{origin} to {target}",
        why=why,
        do="put the output on the source's file system, or say clone: auto or copy",
    )


def _reflinked(origin: Path, target: Path) -> bool:
    with suppress(OSError), origin.open("rb") as theirs, target.open("wb") as ours:
        fcntl.ioctl(ours, FICLONE, theirs.fileno())
        return True
    return False
