"""Every error that zmend raises on purpose, and the exit code each one ends a command with.

ZmendError                    what, where, why, do
├── UsageError            2   the command line does not say one thing
├── InputError            3   a file the user gave is not fit (also a ValueError)
│   ├── ConfigError           zmend.yaml
│   ├── FlagError             the flags file; carries the line
│   ├── VolumeError           the volume
│   │   ├── MisalignedWriteError
│   │   └── MissingChunkError
│   ├── RestorerError         the restorer refuses the recipe, or cannot be found
│   ├── PlanChangedError      the plan that was reviewed is not the plan that would run
│   ├── RevertError           an earlier state of the store cannot be brought back
│   └── VerdictError          the verdicts of a review are not fit; carries the line
├── VerifyError           5   the store is not what its records say
├── StoreLockedError      6   a live run holds the store
├── UnfitError            7   this machine or mount cannot do the job
│   └── UnfitWorkerError      one worker's process cannot; its slab is done by another
└── Interrupted          75   stopped on request; run again to go on

4 is no error: the run ended, and quarantined what was not fit to be written.
"""

from __future__ import annotations

MOST_CHARS = 1000  # of each part of an error


class ZmendError(Exception):
    """Says what happened, where, why probably, and what to type next."""

    exit_code = 1

    def __init__(self, what: str, *, where: str = "", why: str = "", do: str = "") -> None:
        super().__init__(what)
        self.what, self.where, self.why, self.do = what, where, why, do

    def __str__(self) -> str:
        parts = [_cut(self.what)]
        parts += [f"  where: {_cut(self.where)}"] if self.where else []
        parts += [f"  why:   {_cut(self.why)}"] if self.why else []
        parts += [f"  do:    {_cut(self.do)}"] if self.do else []
        return "\n".join(parts)

    def __reduce__(self) -> tuple[object, ...]:
        # Exceptions cross process borders on the cluster; keyword-only arguments need telling.
        return _rebuild, (type(self), self.what, self.where, self.why, self.do)


def _cut(text: str) -> str:
    """What a person may read: inputs, which errors repeat, have words of any length."""
    return text if len(text) <= MOST_CHARS else f"{text[:MOST_CHARS]}…"


def _rebuild(kind: type[ZmendError], what: str, where: str, why: str, do: str) -> ZmendError:
    return kind(what, where=where, why=why, do=do)


class UsageError(ZmendError):
    """The command line does not say one thing."""

    exit_code = 2


class InputError(ZmendError, ValueError):
    """A file the user gave is not fit."""

    exit_code = 3


class ConfigError(InputError):
    """zmend.yaml has a key or a value that is not understood."""


class FlagError(InputError):
    """The flags file has a line that is not understood; `where` names file and line."""


class VolumeError(InputError):
    """The volume cannot be opened, read or written as asked."""


class MisalignedWriteError(VolumeError):
    """A write would cover part of a chunk: two such writers lose each other's data silently (zarr-python#3682)."""


class MissingChunkError(VolumeError):
    """A chunk does not exist in the store; zarr would return its fill value as if it were tissue."""


class RestorerError(InputError):
    """The restorer refuses the recipe, or cannot be found."""


class PlanChangedError(InputError):
    """The plan that was reviewed is not the plan that would run now."""


class RevertError(InputError):
    """An earlier state of the store cannot be brought back exactly; nothing was touched."""


class VerdictError(InputError):
    """A file of verdicts is not fit, or is about another plan; `where` names file and line."""


class VerifyError(ZmendError):
    """The store is not what its records say."""

    exit_code = 5


class StoreLockedError(ZmendError):
    """A live run holds the store."""

    exit_code = 6


class UnfitError(ZmendError):
    """This machine or mount cannot do the job."""

    exit_code = 7


class UnfitWorkerError(UnfitError):
    """One worker's process failed its own test: no slab's fault. `where` names host and process, `why` the reason."""


class Interrupted(ZmendError):
    """Stopped on request; the same command goes on where this one stopped."""

    exit_code = 75
