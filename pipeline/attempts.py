"""Attempts: what to do when a slab fails: try again, go on without it, or stop the run. Decides; does nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pipeline.errors import InputError, StoreLockedError, ZmendError
from pipeline.plan import Slab

OnEvent = Callable[[dict[str, Any]], None]
HOPELESS = 10  # failures without a single success: everything fails alike, so stop


@dataclass
class Attempts:
    """Counts failures and decides: try again, go on without, or stop."""

    allowed: int
    tell: OnEvent
    succeeded: bool = False

    def __post_init__(self) -> None:
        self.count: Counter[str] = Counter()
        self.lost: list[tuple[Slab, BaseException]] = []

    def again(self, slab: Slab, error: BaseException) -> bool:
        """Whether to try the slab once more. Raises what trying again cannot mend."""
        if isinstance(error, InputError | StoreLockedError):
            raise error
        self.count[slab.id] += 1
        self.tell({"kind": "failure", "slab": slab.id, "attempt": self.count[slab.id], "error": in_words(error)})
        if not self.succeeded and self.count.total() >= HOPELESS:
            raise self._error(slab, error, f"{HOPELESS} failures and no success: everything fails alike")
        if self.count[slab.id] < self.allowed:
            return True
        self.lost.append((slab, error))
        return False

    def finish(self) -> None:
        """Raises for the first slab that was given up, if any."""
        if self.lost:
            slab, error = self.lost[0]
            raise self._error(slab, error, f"{len(self.lost)} slabs failed {self.allowed} times each") from error

    def _error(self, slab: Slab, error: BaseException, what: str) -> ZmendError:
        return ZmendError(
            what,
            where=f"slab {slab.id} {slab.write}",
            why=in_words(error),
            do="mend the cause and run again: finished slabs are kept; -vv shows the traceback",
        )


def in_words(error: BaseException) -> str:
    """An error as people read it."""
    if type(error).__name__ == "KilledWorker":
        return "the worker died again and again while it held this slab: out of memory, or killed from outside"
    return f"{type(error).__name__}: {error}"
