"""Web: objects behind any other URL that fsspec knows: a web server (to read only), memory, a foreign store."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any

import fsspec

from pipeline.errors import VolumeError
from pipeline.objects import Stored

ABSENT = (FileNotFoundError, IsADirectoryError, NotADirectoryError)


class Web:
    """What fsspec shows below a URL: sources. None of them promises to create an object only where there is none."""

    def __init__(self, uri: str) -> None:
        self.uri, self.served = uri, uri.startswith(("http://", "https://"))
        self._fs, self._root = _filesystem(uri)

    def _at(self, key: str) -> str:
        return f"{self._root}/{key}" if key else self._root

    def read(self, key: str, start: int = 0, stop: int | None = None) -> bytes | None:
        try:
            return bytes(self._fs.cat_file(self._at(key), start=start, end=stop))
        except ABSENT:
            return None
        except Exception as error:
            raise web_error(error, self._at(key)) from error

    def stat(self, key: str) -> Stored | None:
        try:
            return _stored(key, self._fs.info(self._at(key)))
        except (FileNotFoundError, NotADirectoryError) as error:
            # fsspec calls any failure of a web server "not found": a dead server must not look like absent chunks.
            if self.served and getattr(error.__cause__, "status", None) not in (404, 410):
                raise OSError(f"no answer for {self._at(key)}: {error.__cause__!r}") from error
            return None
        except Exception as error:
            raise web_error(error, self._at(key)) from error

    def put(self, key: str, data: bytes) -> None:
        self._fs.pipe_file(self._at(key), data)

    keep = lay = put

    def create(self, key: str, data: bytes) -> bool:
        raise self._no_output()

    def move(self, key: str, to: str) -> None:
        raise self._no_output()

    def clear(self, last: Iterable[str] = ()) -> None:
        raise self._no_output()

    def _no_output(self) -> VolumeError:
        return VolumeError("no store can be made there", where=self.uri, do="name a folder, or s3://bucket/key")

    def delete(self, key: str) -> None:
        if self.stat(key) is not None:
            self._fs.rm_file(self._at(key))

    def sync(self, keys: Iterable[str]) -> None:
        pass

    def names(self) -> list[str] | None:
        try:
            found = [] if self.served else self._fs.ls(self._root, detail=False)
            return sorted(str(p).rsplit("/", 1)[-1] for p in found) or None
        except FileNotFoundError:
            return None

    def walk(self) -> Iterator[Stored]:
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
