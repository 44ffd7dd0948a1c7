"""Disk: objects as files below a folder. Links and renames, never flock: NFS and Lustre lie about it."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from uuid import uuid4

from pipeline.errors import UnfitError
from pipeline.failpoint import reach
from pipeline.objects import Stored

ABSENT = (FileNotFoundError, IsADirectoryError, NotADirectoryError)


NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS)  # not: full, or failing

class Disk:
    """The files below a folder. What is written appears whole or not at all: written aside, then renamed or linked."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._durable: set[Path] = set()  # folders whose own entry is known to be on the disk

    def _at(self, key: str) -> str:
        return f"{self.root}/{key}" if key else str(self.root)

    def read(self, key: str, start: int = 0, stop: int | None = None) -> bytes | None:
        try:
            with Path(self._at(key)).open("rb") as file:
                file.seek(start)
                return file.read() if stop is None else file.read(stop - start)
        except ABSENT:
            return None

    def stat(self, key: str) -> Stored | None:
        try:
            found = os.stat(self._at(key))  # noqa: PTH116  (a Path costs more than the system call)
        except ABSENT:
            return None
        return Stored(key, found.st_size, found.st_mtime_ns, "")

    def put(self, key: str, data: bytes) -> None:
        path, aside = self._aside(key, data)
        try:
            aside.replace(path)
        finally:
            aside.unlink(missing_ok=True)

    def keep(self, key: str, data: bytes) -> None:
        self.put(key, data)  # whose content is durable; its name is not yet
        self._sync_folders({Path(self._at(key)).parent})

    def lay(self, key: str, data: bytes) -> None:
        path, aside = self._aside(key, data, durable=False)
        try:
            aside.replace(path)
        except BaseException:
            aside.unlink(missing_ok=True)
            raise

    def create(self, key: str, data: bytes) -> bool:
        path, aside = self._aside(key, data)
        try:
            os.link(aside, path)
        except FileExistsError:
            # NFS may say so of our own link, when the first answer was lost and the request was sent again
            if aside.stat().st_nlink < 2:
                return False
        except OSError as e:
            if e.errno not in NO_LINKS:
                raise
            raise UnfitError(
                "the file system has no hard links",
                where=str(path),
                why=str(e),
                do="put the output on a POSIX file system; `zmend doctor PATH` tests one",
            ) from e
        finally:
            aside.unlink(missing_ok=True)
        self._sync_folders({path.parent})
        return True

    def _aside(self, key: str, data: bytes, *, durable: bool = True) -> tuple[Path, Path]:
        """The path of a key, and a file beside it that holds the data."""
        path = Path(self._at(key))
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f".{path.name}.{uuid4().hex}.partial")
        try:
            with aside.open("wb") as file:
                file.write(data)
                if durable:
                    file.flush()
                    reach("fsync", key, [aside])
                    os.fsync(file.fileno())
        except BaseException:
            aside.unlink(missing_ok=True)
            raise
        return path, aside

    def delete(self, key: str) -> None:
        Path(self._at(key)).unlink(missing_ok=True)

    def move(self, key: str, to: str) -> None:
        target = Path(self._at(to))
        target.parent.mkdir(parents=True, exist_ok=True)
        Path(self._at(key)).rename(target)

    def clear(self, last: Iterable[str] = ()) -> None:
        for child in self.root.iterdir():
            if child.name not in last and child.is_dir():
                shutil.rmtree(child)
        shutil.rmtree(self.root)

    def sync(self, keys: Iterable[str]) -> None:
        paths = [self.root / k for k in keys]
        for path in paths:
            _fsync(path)
        self._sync_folders({p.parent for p in paths})

    def _sync_folders(self, folders: set[Path]) -> None:
        """Make the entries of folders durable, and those of the folders themselves, where that is not known."""
        below = {f for folder in folders for f in (folder, *folder.parents) if self.root in f.parents}
        new = below - self._durable
        for folder in folders | {f.parent for f in new}:
            _fsync(folder)
        self._durable |= new

    def names(self) -> list[str] | None:
        return sorted(p.name for p in self.root.iterdir()) if self.root.is_dir() else None

    def walk(self) -> Iterator[Stored]:
        return _scan(str(self.root), "")

    def folders(self, *, follow: bool = True, but: Sequence[str] = ()) -> Iterator[tuple[str, list[str]]]:
        """Each folder below that has files, as the beginning of their keys, and their names, in no order."""
        return _folders(str(self.root), "", follow, frozenset(but))

    def leaves(self, depth: int) -> Iterator[tuple[str, list[str]]]:
        """Each folder so many levels below, as the beginning of its keys, and all that lies in it, in no order: half
        the time of `folders`, which must look at every entry."""
        return _leaves(str(self.root), "", depth)

    def sweep(self, but: Sequence[str] = ()) -> int:
        """Remove what writers that were killed left half-made; returns how many. but: folders to leave out, with /."""
        every = self.folders(follow=False, but=but)  # a million chunks in a second; rglob takes forty times as long
        keys = (folder + name for folder, names in every for name in names if name.endswith(".partial"))
        orphans = [f"{self.root}/{key}" for key in keys]
        for path in orphans:
            Path(path).unlink(missing_ok=True)
        return len(orphans)


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _scan(root: str, below: str) -> Iterator[Stored]:
    with os.scandir(f"{root}/{below}") as entries:
        found = sorted(entries, key=lambda e: e.name)
    for entry in found:
        if entry.is_dir():
            yield from _scan(root, f"{below}{entry.name}/")
        else:
            stat = entry.stat()
            yield Stored(below + entry.name, stat.st_size, stat.st_mtime_ns, "")


def _folders(root: str, below: str, follow: bool, but: frozenset[str]) -> Iterator[tuple[str, list[str]]]:
    files: list[str] = []
    folders: list[str] = []
    try:
        with os.scandir(f"{root}/{below}") as entries:
            for entry in entries:
                (folders if entry.is_dir(follow_symlinks=follow) else files).append(entry.name)
    except ABSENT:  # it has gone meanwhile
        return
    if files:
        yield below, files
    for name in folders:
        if (inner := f"{below}{name}/") not in but:
            yield from _folders(root, inner, follow, but)


def _leaves(root: str, below: str, depth: int) -> Iterator[tuple[str, list[str]]]:
    try:
        if depth == 0:
            yield below, os.listdir(f"{root}/{below}")  # noqa: PTH208  (a Path for each of millions costs seconds)
            return
        with os.scandir(f"{root}/{below}") as entries:
            folders = [entry.name for entry in entries if entry.is_dir()]
    except ABSENT:  # it has gone meanwhile
        return
    for name in folders:
        yield from _leaves(root, f"{below}{name}/", depth - 1)
