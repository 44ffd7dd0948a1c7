"""State: which plan and which records are in force. Every run that changes that notes first what it finds.

zmend/runs/<run>/before.json     the state that the run found; absent where it changed nothing
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from pipeline import certificate, review, signature
from pipeline.errors import RevertError, UsageError
from pipeline.files import Files
from pipeline.recipe import digest
from pipeline.store import read_attrs

SCHEMA = "zmend-state/1"
BESIDE = {"review": review.KEY, "certificate": certificate.KEY, "signature": signature.KEY}  # kept as they are


@dataclass(frozen=True)
class State:
    """What is in force. A record is named by its slab and the run that made it."""

    head: str  # hash of the plan; empty before the first
    made: dict[str, str] = field(default_factory=dict)  # run: ids of its slabs in force, 32 digits each
    beside: dict[str, str] = field(default_factory=dict)  # documents that go with them, as they were written

    @staticmethod
    def now(out: str, made: dict[str, bytes]) -> State:
        """The state of a store. made: by run, the ids of its slabs in force, sixteen bytes each."""
        files = Files(out)
        found = {name: raw.decode() for name, key in BESIDE.items() if (raw := files.read(key)) is not None}
        head = str(read_attrs(out)["zmend"].get("head", ""))
        return State(head, {run: ids.hex() for run, ids in sorted(made.items())}, found)

    def records(self) -> dict[str, str]:
        """The run that made the record of each slab, by its id."""
        return {ids[i : i + 32]: run for run, ids in self.made.items() for i in range(0, len(ids), 32)}

    def document(self) -> dict[str, Any]:
        """JSON-ready."""
        body = {"schema": SCHEMA, "head": self.head, "made": self.made, **self.beside}
        return {**body, "digest": digest(body)}

    def keep(self, out: str, run: str) -> None:
        """Note that this is what a run found. Durable, and before the run changes anything."""
        Files(out).create(_key(run), json.dumps(self.document()).encode())

    def put_beside(self, out: str, names: Iterable[str] = BESIDE) -> None:
        """Make the documents that go with the records what they were."""
        files = Files(out)
        for name in names:
            if name in self.beside:
                files.keep(BESIDE[name], self.beside[name].encode())
            else:
                files.delete(BESIDE[name])


def _set_about(out: str, run: str) -> bool:
    """Whether a run's log says that there was something to do, or to take away."""
    for line in (Files(out).read(f"zmend/runs/{run}/log.jsonl") or b"").splitlines():
        with suppress(ValueError, TypeError, KeyError, AttributeError):  # cut off by a kill
            event = json.loads(line)
            if event["kind"] == "begin":
                return bool(event.get("todo") or event.get("retired"))
    return False


def found_by(out: str, run: str) -> State:
    """The state that a run found. Raises RevertError where it cannot be trusted, or there is none."""
    raw = Files(out).read(_key(run))
    if raw is None and _set_about(out, run):
        raise RevertError(
            f"what was there before run {run} is not known any more",
            where=f"{out}/{_key(run)}",
            why="its log says that it had something to do, but its note of what it found is gone",
            do="bring that file back from a copy of the store; until then only other runs can be reverted",
        )
    if raw is None:
        raise RevertError(
            f"run {run} changed nothing",
            where=f"{out}/zmend/runs/{run}",
            why="all was done before it began, or it was made by a version of zmend that noted no state",
            do="name a run that did: " + (", ".join(changing(out)[-3:]) or "there is none yet"),
        )
    try:
        body = json.loads(raw)
        said = body.pop("digest")
        state = State(body["head"], body["made"], {k: body[k] for k in BESIDE if k in body})
    except (ValueError, KeyError, TypeError, AttributeError) as e:
        raise _edited(out, run, f"{type(e).__name__}: {e}") from e
    if said != digest(body):
        raise _edited(out, run, "its content does not hash to what it says")
    return state


def changing(out: str) -> list[str]:
    """The runs that noted a state, in the order of their names."""
    runs = Files(out) / "zmend/runs"
    names = sorted(runs.names() or ())
    return [n for n, found in zip(names, runs.stats([f"{n}/before.json" for n in names]), strict=True) if found]


def run_called(out: str, prefix: str) -> str:
    """The one run whose name begins so. Raises UsageError where there is none, or several."""
    names = sorted((Files(out) / "zmend/runs").names() or ())
    found = [n for n in names if n.startswith(prefix)] if prefix else []
    if len(found) == 1:
        return found[0]
    raise UsageError(
        f"{len(found)} runs are called '{prefix}'" if found else f"there is no run '{prefix}' in this store",
        where=out,
        do=f"name one of {', '.join((found or changing(out))[-3:])}" if names else "run one: zmend run zmend.yaml",
    )


def _key(run: str) -> str:
    return f"zmend/runs/{run}/before.json"


def _edited(out: str, run: str, why: str) -> RevertError:
    return RevertError(
        f"what run {run} found cannot be trusted",
        where=f"{out}/{_key(run)}",
        why=why,
        do="revert another run, or bring the file back from a copy",
    )
