"""Files: the objects under one address, a folder, s3://bucket/prefix or another URL; what a Zarr array lies in."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from pipeline.disk import Disk
from pipeline.errors import UsageError, VolumeError
from pipeline.objects import Objects, Stored, bare

if TYPE_CHECKING:
    from pipeline.bucket import Bucket

PROBES = 16  # requests in flight when objects of a remote store are looked up one by one


class Files:
    """The objects under one address. Keys are relative to it, with slashes. Threads may share it.

    Every method raises OSError for what may pass (disk, network) and VolumeError where a server refuses for good.
    """

    def __init__(self, uri: str) -> None:
        uri = bare(uri)
        local = "://" not in uri or uri.startswith("file://")
        _refuse_impossible(uri)
        self.uri = str(Path(uri.removeprefix("file://")).expanduser().absolute()) if local else uri.rstrip("/")
        self.local = Path(self.uri) if local else None
        self.web = self.uri.startswith(("http://", "https://"))
        self.bucket: Bucket | None = None
        self._objects: Objects = Disk(self.local) if self.local is not None else self._remote()

    def _remote(self) -> Objects:
        _refuse_secrets(self.uri)
        if not self.uri.startswith("s3://"):
            from pipeline.web import Web  # fsspec takes long to import

            return Web(self.uri)
        try:
            from pipeline.bucket import Bucket
        except ImportError as error:
            raise VolumeError(
                "this machine cannot open such addresses",
                where=self.uri,
                why=str(error),
                do='pip install "zmend[remote]"',
            ) from error
        self.bucket = Bucket(self.uri)
        return self.bucket

    def __truediv__(self, path: str) -> Files:
        return Files(f"{self.uri}/{path}") if path else self

    def __reduce__(self) -> tuple[object, ...]:
        return Files, (self.uri,)

    def overlaps(self, other: Files) -> bool:
        """Whether one of the two addresses lies in the other, or is the other."""
        if self.local is not None and other.local is not None:
            one, two = self.local.resolve(), other.local.resolve()
            return one == two or one in two.parents or two in one.parents
        a, b = f"{self.uri}/", f"{other.uri}/"
        return a.startswith(b) or b.startswith(a)

    def at(self, key: str) -> str:
        """The address of an object, for people."""
        return f"{self.uri}/{key}"

    def read(self, key: str, start: int = 0, stop: int | None = None) -> bytes | None:
        """Bytes [start, stop) of an object, or None where there is none."""
        return self._objects.read(key, start, stop)

    def stat(self, key: str) -> Stored | None:
        """Size and age of an object, or None where there is none."""
        return self._objects.stat(key)

    def stats(self, keys: Sequence[str]) -> list[Stored | None]:
        """`stat` of many objects, in order."""
        if self.local is not None or len(keys) < 2:
            return [self.stat(k) for k in keys]
        with ThreadPoolExecutor(PROBES) as pool:
            return list(pool.map(self.stat, keys))

    def put(self, key: str, data: bytes) -> None:
        """Write an object: whole, or not at all; one that is there is replaced at once. `sync` makes it durable."""
        self._objects.put(key, data)

    def lay(self, key: str, data: bytes) -> None:
        """`put` of what is not asked to be durable before a `sync` of many."""
        self._objects.lay(key, data)

    def keep(self, key: str, data: bytes) -> None:
        """`put`, and make it survive a power cut."""
        self._objects.keep(key, data)

    def create(self, key: str, data: bytes) -> bool:
        """Write an object whole and durable, unless one is there: then nothing happens and False is returned.

        Raises UnfitError on a file system that cannot promise it.
        """
        return self._objects.create(key, data)

    def move(self, key: str, to: str) -> None:
        """Give an object another key. On an object store it is copied, then deleted: a kill leaves both."""
        self._objects.move(key, to)

    def sync(self, keys: Iterable[str]) -> None:
        """Make objects that are written survive a power cut. An object store does that by itself."""
        self._objects.sync(keys)

    def delete(self, key: str) -> None:
        """Remove an object; nothing happens where there is none."""
        self._objects.delete(key)

    def clear(self, last: Iterable[str] = ()) -> None:
        """Remove everything below, the keys `last` after all others."""
        self._objects.clear(last)

    def sweep(self, but: Sequence[str] = ()) -> int:
        """Remove what killed writers left half-made, and say how many; an object store has no such thing. but: folders
        to leave out, with a slash at the end."""
        return Disk(self.local).sweep(but) if self.local is not None else 0

    def names(self) -> list[str] | None:
        """What lies directly in the folder; None: no such folder, or a store that cannot list."""
        return self._objects.names()

    def names_below(self, folders: Sequence[str]) -> list[list[str]]:
        """`names` of many folders, in order; none where there is no such folder."""
        if self.local is not None:
            return [(self / f).names() or [] for f in folders]
        with ThreadPoolExecutor(PROBES) as pool:
            return list(pool.map(lambda f: (self / f).names() or [], folders))

    def folders(self, depth: int) -> Iterator[tuple[str, list[str]]]:
        """Each folder so many levels below that has objects, as the beginning of their keys, and their names: what is
        quick to know of millions, in no order. On a bucket folders of other levels come, too, and names of folders may
        on a disk. Not for the web: it cannot list."""
        if self.local is not None:
            yield from Disk(self.local).leaves(depth)
            return
        parts = (stored.key.rpartition("/") for stored in self.walk())
        for (folder, slash), some in groupby(parts, lambda part: part[:2]):
            yield folder + slash, [name for *_, name in some]

    def walk(self) -> Iterator[Stored]:
        """Every object below, in one order always. Not for the web: it cannot list."""
        return self._objects.walk()


def in_words(error: Exception, where: str, verb: str = "read") -> Exception:
    """An error that came through zarr: itself, or what a server's answer means, as the methods of `Files` raise it."""
    module = type(error).__module__
    if module.startswith("obstore"):
        from pipeline.bucket import in_words as said

        return said(error, verb, where)
    if module.startswith("aiohttp"):
        from pipeline.web import web_error

        return web_error(error, where)
    return error


def split(address: str) -> tuple[Files, str]:
    """The folder of an object's address, and its key in there."""
    parent, _, name = address.rpartition("/")
    return Files(parent or ("/" if address.startswith("/") else ".")), name


def on_disk(path: str, option: str, do: str = "name a path on a disk, and copy it there afterwards") -> None:
    """Raises UsageError where a file that is written to disks only is asked for at an address: s3://… is no folder."""
    if "://" in path:
        raise UsageError(f"{option} {path} is not on a disk", why="this file is written to disks only", do=do)


def _refuse_impossible(uri: str) -> None:
    """An address that no file system and no server can have."""
    parts = [len(part.encode(errors="replace")) for part in uri.split("/")]
    if "\0" in uri or max(parts) > 255 or sum(parts) + len(parts) > 4096:
        raise VolumeError(
            "this is no address",
            where=f"{uri[:80]!r}{'…' if len(uri) > 80 else ''}",
            why="it holds a NUL, or a name of more than 255 bytes, or more than 4096 bytes in all",
            do="check the path",
        )


def _refuse_secrets(uri: str) -> None:
    """An address ends up in plans, records and logs: no place for a password."""
    where = urlsplit(uri)
    if "@" in where.netloc:
        raise VolumeError(
            "an address must not hold a password",
            where=f"{where.scheme}://…@{where.netloc.rpartition('@')[2]}{where.path}",
            why="addresses are written into plans, records and logs",
            do="leave it out; for s3 set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
        )
    if where.query:
        raise VolumeError(
            "an address must not hold a query",
            where=f"{where.scheme}://{where.netloc}{where.path}?…",
            why="signatures and tokens stand there, and addresses are written into plans, records and logs",
            do="name the folder without it; objects below it could not be asked for anyway",
        )
