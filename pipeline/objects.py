"""Objects: what a place that keeps objects must be able to do; disk, bucket and web each do it their own way."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple, Protocol

KINDS = ("precomputed://", "n5://")  # Neuroglancer names the kind of a volume so; ours is seen by what lies there


def bare(uri: str) -> str:
    """An address without the kind that Neuroglancer puts before it."""
    return next((uri.removeprefix(kind) for kind in KINDS if uri.startswith(kind)), uri)


class Stored(NamedTuple):
    """What is known of an object without reading it."""

    key: str
    size: int  # bytes
    mtime_ns: int  # 0: the store does not say
    etag: str  # "": the store does not say


class Objects(Protocol):
    """Objects below one folder or prefix; keys are relative to it, with slashes."""

    def read(self, key: str, start: int = 0, stop: int | None = None) -> bytes | None:
        """Bytes [start, stop) of an object, or None where there is none."""

    def stat(self, key: str) -> Stored | None:
        """Size and age of an object, or None where there is none."""

    def put(self, key: str, data: bytes) -> None:
        """Write an object: whole, or not at all; one that is there is replaced at once."""

    def keep(self, key: str, data: bytes) -> None:
        """`put`, and make it survive a power cut."""

    def lay(self, key: str, data: bytes) -> None:
        """`put`, but its content is not durable before `sync`."""

    def create(self, key: str, data: bytes) -> bool:
        """Write an object whole and durable, unless one is there: then nothing happens and False is returned."""

    def delete(self, key: str) -> None:
        """Remove an object; nothing happens where there is none."""

    def move(self, key: str, to: str) -> None:
        """Give an object another key. Killed in between, a bucket has it under both."""

    def clear(self, last: Iterable[str] = ()) -> None:
        """Remove everything below, the keys `last` after all others."""

    def sync(self, keys: Iterable[str]) -> None:
        """Make objects that are written survive a power cut."""

    def names(self) -> list[str] | None:
        """What lies directly below, sorted; None: nothing is there, or the store cannot list."""

    def walk(self) -> Iterator[Stored]:
        """Every object below, in one order always."""
