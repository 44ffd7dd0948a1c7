"""Attempts: what to do when a slab fails: try again, go on without it, or stop the run. Decides; does nothing.

cause       is                                            then
fatal       the input, the plan or the store is not fit   stop
transient   disk, network or server; may pass             again, later and later
lost        its worker died or was taken away             again at once, many times: seldom the slab's fault
cut off     the scheduler cannot be reached               again once it can; that is no failure of the slab's
memory      did not fit into memory                       again, later, when there may be more room
unfit       the worker cannot do any slab                 again elsewhere; that worker leaves
error       anything else                                 again elsewhere; two workers that agree end it
"""

from __future__ import annotations

import errno
import hashlib
import re
import traceback
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from pipeline.errors import InputError, StoreLockedError, UnfitError, ZmendError
from pipeline.plan import Slab
from pipeline.site import Budgets

OnEvent = Callable[[dict[str, Any]], None]
Cause = Literal["fatal", "transient", "lost", "cut off", "memory", "unfit", "error"]

HOPELESS = 10  # failures without a single success, or slabs given up in a row: everything fails alike, so stop
AGREE = 2  # workers on which a slab fails alike before it is the slab's own fault
BASE_S, CAP_S = 1.0, 60.0  # the first wait after a failure that may pass, and the longest
PASSING = ("transient", "lost", "memory")  # a slab that was given up for these is tried again by the next run
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)

# By name, since not everyone who judges has torch or dask at hand.
LOST = {"KilledWorker", "CancelledError", "FutureCancelledError", "NoValidWorkerError", "NoWorkerError"}
MEMORY = {"MemoryError", "OutOfMemoryError"}
MEMORY_WORDS = ("out of memory", "not enough memory", "can't allocate memory")


@dataclass(frozen=True, slots=True)
class Failure:
    """One failure of one slab, as it travels: nobody needs the packages in which the error was defined."""

    cause: Cause
    words: str  # the error as people read it
    worker: str = ""  # where; empty where that is not known
    trace: str = ""
    error: ZmendError | None = None  # the error itself, where it is one of ours

    @staticmethod
    def of(error: BaseException, worker: str = "") -> Failure:
        """What is to be known of an error."""
        trace = "".join(traceback.format_exception(error))
        ours = error if isinstance(error, ZmendError) else None
        return Failure(cause_of(error), in_words(error), worker, trace, ours)

    @property
    def likeness(self) -> str:
        """Equal where two failures are the same one: the words without numbers and addresses."""
        return re.sub(r"0x[0-9a-f]+|[0-9a-f]{12,}|\d+", "#", self.words)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What follows from a failure."""

    again: bool  # else the slab is given up
    delay_s: float = 0.0  # not before so many seconds
    avoid: str = ""  # not on this worker, if there is another
    alone: bool = False  # not beside others of which workers died
    dismiss: bool = False  # that worker leaves


@dataclass
class Attempts:
    """Counts failures by slab and cause, and says what follows."""

    budgets: Budgets
    tell: OnEvent
    hope: bool = False  # whether slabs of this plan were finished before: then what fails now is not everything
    succeeded: bool = False
    given_up: list[tuple[Slab, Failure]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._tries: dict[str, Counter[str]] = defaultdict(Counter)
        self._alike: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))  # slab, likeness: workers
        self._barren = self._dropped = self._unfit = 0  # failures, slabs given up, workers gone since a success

    def success(self, slab: Slab, *, empty: bool = False) -> None:
        """The slab is done: what was wrong with it is forgotten. empty: there was nothing to restore in it, so that it
        says nothing of the others.
        """
        if not empty:
            self.succeeded = True
            self._barren = self._dropped = self._unfit = 0
        self._tries.pop(slab.id, None)
        self._alike.pop(slab.id, None)

    def judge(self, slab: Slab, failure: Failure) -> Verdict:
        """What to do about a failure. Raises what trying again cannot mend."""
        if failure.cause == "cut off":
            return Verdict(True)
        tries = self._tries[slab.id]
        tries[failure.cause] += 1
        verdict = self._verdict(slab, failure, tries[failure.cause])
        self.tell(
            {
                "kind": "failure",
                "slab": slab.id,
                "cause": failure.cause,
                "attempt": tries.total(),
                "error": failure.words,
                "worker": failure.worker,
                "again": verdict.again,
                "delay_s": round(verdict.delay_s, 3),
            }
        )
        self._stop_if_hopeless(slab, failure, verdict, tries[failure.cause])
        if not verdict.again:
            self.given_up.append((slab, failure))
            self._tries.pop(slab.id), self._alike.pop(slab.id, None)
        return verdict

    def _verdict(self, slab: Slab, failure: Failure, tries: int) -> Verdict:
        match failure.cause:
            case "fatal":
                raise self._stop(slab, failure, "the run cannot go on")
            case "unfit":
                return Verdict(True, avoid=failure.worker, dismiss=True)
            case "transient":
                return Verdict(tries < self.budgets.transient, backoff_s(slab.id, tries))
            case "memory":
                return Verdict(tries < self.budgets.memory, backoff_s(slab.id, tries), failure.worker)
            case "lost":
                return Verdict(tries < self.budgets.lost, alone=True)
        workers = self._alike[slab.id][failure.likeness]
        workers.add(failure.worker)
        return Verdict(tries < self.budgets.error and len(workers) < AGREE, avoid=failure.worker)

    def _stop_if_hopeless(self, slab: Slab, failure: Failure, verdict: Verdict, tries: int) -> None:
        self._barren += failure.cause != "transient" or tries > AGREE  # an outage at the start may pass
        self._dropped += not verdict.again
        self._unfit += failure.cause == "unfit"
        if self._unfit >= HOPELESS:
            raise self._stop(slab, failure, f"{HOPELESS} workers were not fit, one after the other")
        if not self.succeeded and self._barren >= HOPELESS:
            raise self._stop(slab, failure, f"{HOPELESS} failures and no success: everything fails alike")
        if self._dropped >= HOPELESS:
            raise self._stop(slab, failure, f"{HOPELESS} slabs were given up, one after the other")

    def finish(self, *, strict: bool = False) -> None:
        """Raises where slabs were given up and none was ever done: that is no run with a few bad slabs.

        strict: raises where any was given up.
        """
        if self.given_up and (strict or not (self.succeeded or self.hope)):
            slab, failure = self.given_up[0]
            raise self._stop(slab, failure, f"{len(self.given_up)} slabs failed" + " for good" * self.succeeded)

    def _stop(self, slab: Slab, failure: Failure, what: str) -> ZmendError:
        if failure.error is not None and failure.cause == "fatal":
            error = failure.error
        elif failure.cause == "fatal":  # an OSError: full, or not to be written on
            error = UnfitError(
                "the disk is full, or cannot be written on",
                where=f"slab {slab.id} {slab.write}",
                why=failure.words,
                do="free some space and run the same command again: finished slabs are kept",
            )
        else:
            error = (UnfitError if failure.cause == "unfit" else ZmendError)(
                what,
                where=f"slab {slab.id} {slab.write}",
                why=failure.words,
                do="mend the cause and run again: finished slabs are kept; -vv shows the traceback",
            )
        if failure.trace:
            error.add_note(f"on worker {failure.worker or 'of this process'}:\n{failure.trace}")
        return error


def cause_of(error: BaseException) -> Cause:
    """Why something failed, as far as that matters for what is done about it."""
    names = {kind.__name__ for kind in type(error).__mro__}
    if "UnfitWorkerError" in names:
        return "unfit"
    if isinstance(error, InputError | StoreLockedError):
        return "fatal"
    if names & MEMORY or any(words in str(error) for words in MEMORY_WORDS):
        return "memory"
    if names & LOST:
        return "lost"
    if isinstance(error, OSError):
        refused = isinstance(error, PermissionError)
        return "fatal" if error.errno in NO_ROOM else "error" if refused else "transient"
    return "transient" if _busy(error) else "error"


def _busy(error: BaseException) -> bool:
    """Whether a server says that it could not just now: HTTP 408, 429, 5xx, as aiohttp, requests and botocore tell."""
    told = getattr(error, "response", None)
    meta = told.get("ResponseMetadata", {}) if isinstance(told, dict) else {}
    status = getattr(error, "status", None) or getattr(told, "status_code", None) or meta.get("HTTPStatusCode")
    return isinstance(status, int) and (status in (408, 429) or 500 <= status < 600)


def backoff_s(slab_id: str, tries: int) -> float:
    """Seconds to wait after so many tries: doubling, capped, spread over [1/2, 1) of that by the slab's id alone."""
    spread = hashlib.sha256(f"{slab_id}/{tries}".encode()).digest()[0] / 256
    return float(min(CAP_S, BASE_S * 2.0 ** (tries - 1)) * (0.5 + spread / 2))


def in_words(error: BaseException) -> str:
    """An error as people read it."""
    if type(error).__name__ == "KilledWorker":
        return "the worker died again and again while it held this slab: out of memory, or killed from outside"
    return f"{type(error).__name__}: {error}"
