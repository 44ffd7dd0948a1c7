"""A power cut, at its worst: what was never synced may be there, be cut in half, or not; name by name, as dice fall.

In a process that is about to be killed, `watch` notes which contents and which folders' entries were synced (fsync of a
file, of a folder); `leave` then makes beside the folder what such a cut could leave of it. A rename never loses the file,
as file systems with a journal have it: it is under the old name, the new one or both.
"""

from __future__ import annotations

import os
import random
import shutil
import threading
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Entry:
    """A file as it was when its folder was synced."""

    data: bytes
    times: tuple[int, int]
    inode: tuple[int, int, int]  # and size and time: which content that was


class Power:
    """What of a folder would survive now."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self._folders: dict[int, dict[str, Entry | None]] = {}  # by inode: entries that survive; None: a folder
        self._synced: set[tuple[int, int, int]] = set()
        self._fsync = os.fsync
        self._dark, self._switch = False, threading.RLock()
        self.sync()

    def watch(self) -> None:
        """From now on, note what this process syncs."""
        os.fsync, os.sync = self.fsync, self.sync

    def fsync(self, handle: int) -> None:
        with self._switch:
            if not self._dark:
                self._note(handle)
                return
        threading.Event().wait()  # another thread, while the power fails: nothing that it does from now on is durable

    def _note(self, handle: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{handle}"))
        if path.is_relative_to(self.root) or path == self.root:
            self._folder(path) if path.is_dir() else self._synced.add(_inode(os.fstat(handle)))

    def sync(self) -> None:
        """All that is there now survives."""
        for folder, _, files in os.walk(self.root):
            self._folder(Path(folder))
            for name in files:
                self._synced.add(_inode(os.stat(f"{folder}/{name}")))

    def _folder(self, folder: Path) -> None:
        self._folders[folder.stat().st_ino] = _entries(folder)

    def leave(self, beside: Path, seed: int) -> None:
        """Write what could be left of the folder."""
        with self._switch:
            self._dark = True
        rng = random.Random(seed)
        left: set[tuple[int, int, int]] = set()
        self._leave(self.root, beside, rng, rng.choice([0.0, 0.5, 0.9]), left)
        once = {e.inode for entries in self._folders.values() for e in entries.values() if e is not None}
        for path in [p for p in self.root.rglob("*") if p.is_file()]:
            if _inode(path.stat()) in (once & self._synced) - left:  # renamed away, and not yet there
                (to := beside / path.relative_to(self.root)).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(path, to)

    def _leave(self, folder: Path, to: Path, rng: random.Random, luck: float, left: set[tuple[int, int, int]]) -> None:
        to.mkdir(parents=True)
        sure, now = self._folders.get(folder.stat().st_ino, {}), _entries(folder)
        for name in sorted({*sure, *now}):
            same = name in sure and name in now and _same(sure[name], now[name])
            kept = now if same or rng.random() < luck else sure
            if name not in kept:
                continue
            entry = kept[name]
            if entry is None:
                self._leave(folder / name, to / name, rng, luck, left) if (folder / name).is_dir() else (to / name).mkdir()
            else:
                whole = entry.inode in self._synced or rng.random() < luck
                (to / name).write_bytes(entry.data if whole else entry.data[: rng.choice([0, len(entry.data) // 2])])
                os.utime(to / name, ns=entry.times)
                left.add(entry.inode)


def _same(a: Entry | None, b: Entry | None) -> bool:
    return (a and a.inode) == (b and b.inode)


def _inode(stat: os.stat_result) -> tuple[int, int, int]:
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


def _entries(folder: Path) -> dict[str, Entry | None]:
    found: dict[str, Entry | None] = {}
    for path in folder.iterdir() if folder.is_dir() else ():
        try:
            stat = path.stat()
            file = Entry(path.read_bytes(), (stat.st_atime_ns, stat.st_mtime_ns), _inode(stat)) if path.is_file() else None
        except FileNotFoundError:
            continue  # another thread was faster
        found[path.name] = file
    return found


def swap(root: Path, left: Path) -> None:
    """The machine is on again: what is left takes the place of what was there."""
    shutil.rmtree(root)
    left.rename(root)
