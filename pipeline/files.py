"""Files: the objects under one folder, local or behind a URL; what a Zarr array lies in."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import fsspec

from pipeline.errors import VolumeError

PROBES = 16  # requests in flight when objects of a remote store are looked up one by one


class Stored(NamedTuple):
    """What is known of an object without reading it."""

    key: str
    size: int  # bytes
    mtime_ns: int  # 0: the store does not say
    etag: str  # "": the store does not say


class Files:
    """The objects under one folder. Keys are relative to it, with slashes. Threads may share it.

    Every method raises OSError for what may pass (disk, network) and VolumeError where a server refuses for good.
    """

    def __init__(self, uri: str) -> None:
        local = "://" not in uri or uri.startswith("file://")
        self.uri = str(Path(uri.removeprefix("file://")).expanduser().absolute()) if local else uri.rstrip("/")
        self.local = Path(self.uri) if local else None
        self.web = self.uri.startswith(("http://", "https://"))
        self._fs: Any = None
        self._root = self.uri
        self._durable: set[Path] = set()  # folders whose own entry is known to be on the disk
        if not local:
            self._fs, self._root = _filesystem(self.uri)

    def __truediv__(self, path: str) -> Files:
        return Files(f"{self.uri}/{path}") if path else self

    def _at(self, key: str) -> str:
        return f"{self._root}/{key}" if key else self._root

    def read(self, key: str, start: int = 0, stop: int | None = None) -> bytes | None:
        """Bytes [start, stop) of an object, or None where there is none."""
        try:
            if self._fs is None:
                with Path(self._at(key)).open("rb") as file:
                    file.seek(start)
                    return file.read() if stop is None else file.read(stop - start)
            return bytes(self._fs.cat_file(self._at(key), start=start, end=stop))
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            return None
        except Exception as error:
            raise web_error(error, self._at(key)) from error

    def stat(self, key: str) -> Stored | None:
        """Size and age of an object, or None where there is none."""
        try:
            if self._fs is None:
                found = os.stat(self._at(key))  # noqa: PTH116  (a Path costs more than the system call)
                return Stored(key, found.st_size, found.st_mtime_ns, "")
            return _stored(key, self._fs.info(self._at(key)))
        except (FileNotFoundError, NotADirectoryError) as error:
            # fsspec calls any failure of a web server "not found": a dead server must not look like absent chunks.
            if self.web and getattr(error.__cause__, "status", None) not in (404, 410):
                raise OSError(f"no answer for {self._at(key)}: {error.__cause__!r}") from error
            return None
        except Exception as error:
            raise web_error(error, self._at(key)) from error

    def stats(self, keys: Sequence[str]) -> list[Stored | None]:
        """`stat` of many objects, in order."""
        if self._fs is None or len(keys) < 2:
            return [self.stat(k) for k in keys]
        with ThreadPoolExecutor(PROBES) as pool:
            return list(pool.map(self.stat, keys))

    def put(self, key: str, data: bytes) -> None:
        """Write an object: whole and durable, or not at all."""
        if self._fs is not None:
            self._fs.pipe_file(self._at(key), data)
            return
        path = Path(self._at(key))
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{uuid4().hex}.partial")
        try:
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    def sync(self, keys: Iterable[str]) -> None:
        """Make objects that are written survive a power cut. An object store does that by itself."""
        if self.local is None:
            return
        paths = [self.local / k for k in keys]
        parents = {p.parent for p in paths}
        above = {f for p in parents for f in p.parents if f.is_relative_to(self.local)} - self._durable
        for path in (*paths, *parents, *above):
            _fsync(path)
        self._durable |= above

    def delete(self, key: str) -> None:
        """Remove an object; nothing happens where there is none."""
        if self._fs is None:
            Path(self._at(key)).unlink(missing_ok=True)
        elif self.stat(key) is not None:
            self._fs.rm_file(self._at(key))

    def names(self) -> list[str] | None:
        """What lies directly in the folder; None: no such folder, or a store that cannot list."""
        if self._fs is None:
            return sorted(p.name for p in Path(self._root).iterdir()) if Path(self._root).is_dir() else None
        try:
            found = [] if self.web else self._fs.ls(self._root, detail=False)
            return sorted(str(p).rsplit("/", 1)[-1] for p in found) or None
        except FileNotFoundError:
            return None

    def walk(self) -> Iterator[Stored]:
        """Every object below, in one order always. Not for the web: it cannot list."""
        if self._fs is None:
            yield from _scan(self._root, "")
            return
        for path, info in sorted(self._fs.find(self._root, detail=True).items()):
            yield _stored(str(path)[len(self._root) :].strip("/"), info)


def _filesystem(uri: str) -> tuple[Any, str]:
    try:
        fs, root = fsspec.url_to_fs(uri, use_listings_cache=False)
    except ImportError as error:
        raise VolumeError(
            "this machine cannot open such addresses",
            where=uri,
            why=str(error),
            do='pip install "zmend[remote]" (http, s3), or the fsspec package of that store',
        ) from error
    except ValueError as error:
        raise VolumeError("this kind of address is not known", where=uri, why=str(error), do="check it") from error
    return fs, str(root).rstrip("/")


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


def _stored(key: str, info: dict[str, Any]) -> Stored:
    when = next((info[k] for k in ("LastModified", "mtime", "modified", "created", "Last-Modified") if info.get(k)), 0)
    when = parsedate_to_datetime(when) if isinstance(when, str) else when
    seconds = when.timestamp() if isinstance(when, datetime) else float(when)
    return Stored(key, int(info.get("size") or 0), round(seconds * 1e9), str(info.get("ETag", "")))


def web_error(error: Exception, where: str) -> Exception:
    """The error itself, or what an HTTP error means: refused for good (VolumeError), or worth another try (OSError)."""
    if isinstance(error, OSError) or not type(error).__module__.startswith("aiohttp"):
        return error
    status = getattr(error, "status", 0)
    if 400 <= status < 500 and status not in (408, 429):
        return VolumeError(f"the server refuses: HTTP {status}", where=where, do="check the address and your rights")
    return OSError(f"{where}: {error!r}")
