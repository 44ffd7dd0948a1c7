"""Any sequence of what people do to a store, against a model of a few lines: after a run that ended the store is what the
model says, whatever was done, killed, edited or spoiled before.

    ZMEND_MACHINE=200 ZMEND_WALKS=100 python -m pytest --timeout 0 tests/properties/test_machine.py     many more than in `make test`
"""

from __future__ import annotations

import json
import os
import random
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import wraps
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition
from hypothesis.stateful import rule as drawn

from pipeline.box import Box
from pipeline.disk import Disk
from pipeline.errors import PlanChangedError, UsageError, ZmendError
from pipeline.job import propose
from pipeline.remerge import remerge
from pipeline.revert import revert
from pipeline.run import run
from pipeline.store import is_store
from pipeline.verify import verify
from pipeline.volume import Volume
from tests.faults.rot import means_the_same
from tests.jobs import Job, save, tree, voxels
from tests.toys import Copier, CopierRetrained

EDGE, MOST = 32, 14  # px of a section; sections
AFTER = st.integers(0, 150)  # changes on the disk until a kill: about as many as a run makes
SPOILT = ("overlay", "labels", "merged", "record", "seal", "plan", "lost overlay", "lost labels", "lost merged", "lost record")
THEN = st.sampled_from((True, True, False))  # whether what was changed is run at once
KINDS = {k.__name__: k for k in (Copier, CopierRetrained)}


def sections(first: int, count: int) -> np.ndarray:
    """Noise that stays clear of white, so that brighter sections are not clipped. The same for the same sections."""
    return np.stack([np.random.default_rng(z).integers(1, 200, (EDGE, EDGE), np.uint8) for z in range(first, first + count)])


def mended(volume: np.ndarray, flagged: set[int], kind: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The model: (merged, labels) of a volume whose sections `flagged` are missing."""
    merged, labels = volume.copy(), np.zeros_like(volume)
    for start in sorted(z for z in flagged if z - 1 not in flagged):
        stop = next(z for z in range(start, len(volume) + 1) if z not in flagged)
        able = start > 0 and stop < len(volume) and stop - start <= Copier.max_gap
        labels[start:stop] = 1 if able else 4
        if able:
            merged[start:stop] = volume[start - 1] + KINDS[kind].step + seed
    return merged, labels


def flip(path: Path, at: int, aside: Path) -> None:
    """Flip the bit that is drawn; where no reader looks at it, the next."""
    shutil.copy2(path, aside)
    body = aside.read_bytes()
    for n in range(at, at + 8):
        path.write_bytes(body[: n % len(body)] + bytes([body[n % len(body)] ^ 1 << n % 8]) + body[n % len(body) + 1 :])
        if not means_the_same(path, aside):
            return


class Killed(BaseException):
    """The process is no more: from here on nothing that it would do happens."""


@contextmanager
def killed_after(count: int) -> Iterator[None]:
    """Everything that changes the disk works `count` times, and never again."""
    left = [count]

    def mortal(method: Any) -> Any:
        def act(*args: Any, **kw: Any) -> Any:
            left[0] -= 1
            if left[0] < 0:
                raise Killed
            return method(*args, **kw)

        return act

    with pytest.MonkeyPatch.context() as patch:
        for kind, names in ((Disk, ("put", "create", "move", "delete", "clear")), (Volume, ("write", "erase"))):
            for name in names:
                patch.setattr(kind, name, mortal(getattr(kind, name)))
        yield


TAKEN: Counter[str] = Counter()  # how often each rule was, in this process


def rule(**how: Any) -> Callable[[Callable[..., None]], Any]:
    """A rule that is counted."""

    def counted(method: Callable[..., None]) -> Any:
        @wraps(method)
        def take(self: Store, **drawn_for_it: Any) -> None:
            method(self, **drawn_for_it)
            TAKEN[method.__name__] += 1

        TAKEN[method.__name__] = 0
        return drawn(**how)(take)

    return counted


class Store(RuleBasedStateMachine):
    """One volume, one configuration, one output."""

    @initialize(depth=st.integers(3, 4), flagged=st.sets(st.integers(0, 7), max_size=3), first=st.sampled_from(("nothing", "kill", "run", "run", "run")), after=AFTER)
    def begin(self, depth: int, flagged: set[int], first: str, after: int) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="machine-"))
        self.volume, self.kind, self.seed, self.slab_px = sections(0, 2 * depth), "Copier", 0, 32
        self.flagged = flagged & set(range(len(self.volume))) or {1}
        save(self.folder / "raw.zarr", self.volume, (2, 16, 16))
        self.job = Job(self.folder, self.volume, self.volume, self.volume > 0)
        self.out = self.folder / "out.zarr"
        self.ended: tuple[np.ndarray, np.ndarray] | None = None  # what the store must hold, where its last run ended
        self.source = tree(self.folder / "raw.zarr")
        self.undo: list[tuple[str, tuple[np.ndarray, np.ndarray]]] = []  # runs that changed something, and what they found
        {"nothing": lambda: None, "kill": lambda: self.killed(after), "run": self.run_to_its_end}[first]()

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            shutil.rmtree(self.folder)

    def proposal(self) -> Any:
        self.job.flags("".join(f"{z}\n" for z in sorted(self.flagged)))
        recipe = {"restorer": f"tests.toys:{self.kind}", "seed": self.seed}
        output = {"chunk_px": 16, "clone": "copy"}
        return propose(self.job.load(recipe=recipe, output=output, site={"slab_px": self.slab_px, "slab_sections": 2}, certificate=0))

    def model(self) -> tuple[np.ndarray, np.ndarray]:
        return mended(self.volume, self.flagged, self.kind, self.seed)

    def run_to_its_end(self, **how: Any) -> int:
        """How many slabs were worked on."""
        told: list[dict[str, Any]] = []
        found = self.ended
        summary = run(self.proposal(), on_event=told.append, **how)
        self.ended = self.model()
        if found is not None and not all(map(np.array_equal, found, self.ended)):
            assert (self.out / "zmend/runs" / summary["run"] / "before.json").exists(), "what changes something can be undone"
        self.may_be_undone(summary["run"], found)
        assert summary["done"] == summary["slabs"] and summary["quarantined"] == 0
        assert summary["voxels_restored"] == int((self.ended[1] == 1).sum())
        return sum(e["kind"] == "slab" for e in told)

    def may_be_undone(self, name: str, found: tuple[np.ndarray, np.ndarray] | None) -> None:
        if found is not None and (self.out / "zmend/runs" / name / "before.json").exists():
            self.undo.append((name, found))

    def dies(self) -> None:
        """The process that held the store lives no more."""
        lock = self.out / "zmend/lock"
        if lock.exists():
            lock.write_text(json.dumps({**json.loads(lock.read_text()), "started": "before"}))

    def found(self, **how: Any) -> list[str]:
        return [c["name"] for c in verify(str(self.out), threads=1, **how)["checks"] if not c["ok"]]

    # --- what people do

    @rule()
    def plan(self) -> None:
        before = tree(self.out) if self.out.exists() else {}
        plan = self.proposal().plan
        assert sorted({z for s in plan.slabs for z in range(s.write.start[0], s.write.stop[0])}) == sorted(self.flagged)
        assert (tree(self.out) if self.out.exists() else {}) == before, "a plan writes nothing"

    @rule()
    def run(self) -> None:
        self.run_to_its_end()
        assert self.run_to_its_end() == 0, "run again: nothing is left to do"

    @rule(after=AFTER)
    def kill(self, after: int) -> None:
        self.killed(after)

    def killed(self, after: int) -> None:
        proposal, self.ended = self.proposal(), None
        try:
            with killed_after(after):
                run(proposal)
            self.ended = self.model()  # it needed less than that
        except Killed:
            self.dies()

    @rule(which=st.integers(0, 100), after=st.none() | st.integers(0, 60))
    @precondition(lambda self: getattr(self, "undo", None))
    def revert(self, which: int, after: int | None) -> None:
        """Back to what a run found; where it is killed, the same command goes on."""
        name, then = self.undo[which % len(self.undo)]
        now, self.ended = self.ended, None
        if after is not None:
            with suppress(Killed), killed_after(after):
                revert(str(self.out), name)
            self.dies()
        done = revert(str(self.out), name)
        self.ended = then
        assert self.found() == []
        self.may_be_undone(done["run"], now if after is None else None)

    @rule(z=st.integers(0, MOST - 1), then=THEN)
    def edit_flags(self, z: int, then: bool) -> None:
        changed = self.flagged ^ ({z} & set(range(len(self.volume))))
        self.flagged = changed or self.flagged
        if then:
            self.run_to_its_end()

    @rule(then=THEN)
    @precondition(lambda self: len(self.volume) < MOST)
    def append_sections(self, then: bool) -> None:
        depth = len(self.volume)
        self.volume = np.concatenate([self.volume, sections(depth, 2)])
        raw = Volume.open(str(self.folder / "raw.zarr"), writable=True)
        raw.resize(self.volume.shape)
        raw.write(Box((depth, 0, 0), self.volume.shape), self.volume[depth:])
        self.source, self.ended, self.undo = tree(self.folder / "raw.zarr"), None, []
        if then:
            self.run_to_its_end()

    @rule(kind=st.sampled_from(sorted(KINDS)), seed=st.integers(0, 3), then=THEN)
    def change_weights_or_recipe(self, kind: str, seed: int, then: bool) -> None:
        self.kind, self.seed = kind, seed
        if then:
            self.run_to_its_end()

    @rule(px=st.sampled_from((16, 32)))
    def change_the_cut(self, px: int) -> None:
        self.slab_px = px

    @rule()
    @precondition(lambda self: is_store(str(self.out)))
    def merge(self) -> None:
        try:
            remerge(str(self.out))
        except (PlanChangedError, ZmendError):
            assert self.ended is None, "what has ended can be merged"

    @precondition(lambda self: is_store(str(self.out)))
    @rule(level=st.sampled_from(("structure", "lineage", "replay")))
    def verify(self, level: str) -> None:
        if self.ended is not None:
            assert self.found(level=level) == []
        elif is_store(str(self.out)):
            with suppress(ZmendError):
                self.found(level=level)  # whatever it says, it says it

    @rule(what=st.sampled_from(SPOILT), at=st.integers(0, 10**6))
    @precondition(lambda self: self.ended is not None and bool((self.ended[1] == 1).any()))
    def corrupt_and_heal(self, what: str, at: int) -> None:
        place = {"overlay": "zmend/overlay/c", "labels": "labels/synthetic/0/c", "merged": "0/c", "record": "zmend/records/??", "seal": "zmend/seal.json", "plan": "zmend/plans"}
        head = json.loads((self.out / "zarr.json").read_text())["attributes"]["zmend"]["head"]
        files = sorted(p for f in self.out.glob(place[what.split()[-1]]) for p in (f.rglob("*") if f.is_dir() else [f]) if p.is_file())
        files = [p for p in files if what != "plan" or p.stem == head]
        path = files[at % len(files)]
        if what.startswith("lost"):
            path.unlink()
        else:
            flip(path, at, self.folder / "aside")
        named = [f.split()[1].rstrip(":,") for c in verify(str(self.out), threads=1)["checks"] for f in c["findings"] if f.startswith("slab ")]
        assert self.found(), f"{path} was {what}"
        try:
            self.run_to_its_end(redo=sorted(set(named)) if what in ("overlay", "labels") else ())
        except UsageError:  # its record was not to be trusted, and is gone
            self.run_to_its_end()
        assert self.found(level="replay", replay=2) == []
        self.undo = []  # what is spoiled cannot come back

    # --- what holds at every moment

    @invariant()
    def what_ended_is_what_the_model_says(self) -> None:
        if getattr(self, "ended", None) is not None:
            merged, labels = self.ended
            np.testing.assert_array_equal(voxels(self.out), merged)
            np.testing.assert_array_equal(voxels(self.out, "labels"), labels)

    @invariant()
    def the_source_is_never_written(self) -> None:
        if hasattr(self, "folder"):
            assert tree(self.folder / "raw.zarr") == self.source


EXAMPLES = int(os.environ.get("ZMEND_MACHINE", "3"))
Store.TestCase.settings = settings(
    max_examples=EXAMPLES, stateful_step_count=12 if EXAMPLES < 50 else 30, deadline=None, derandomize=EXAMPLES < 50,
    suppress_health_check=list(HealthCheck), database=None, print_blob=True,
)  # fmt: skip
TestStore = Store.TestCase
RULES = tuple(TAKEN)


class Walk:
    """What hypothesis does, without its way of leaving most rules out of a short example: every rule comes up."""

    def __init__(self, seed: int) -> None:
        self.rng, self.store, self.steps = random.Random(seed), Store(), Counter[str]()

    def take(self, steps: int) -> None:
        rng, store = self.rng, self.store
        store.begin(depth=4, flagged={rng.randrange(8) for _ in range(3)}, first=rng.choice(("kill", "run")), after=rng.randrange(150))
        try:
            for _ in range(steps):
                name, how = self.choice()
                self.steps[name] += 1
                getattr(store, name)(**how)
                store.what_ended_is_what_the_model_says()
                store.the_source_is_never_written()
        finally:
            store.teardown()

    def choice(self) -> tuple[str, dict[str, Any]]:
        """Mostly what was taken least so far: in a short walk chance alone leaves rules out."""
        found = self.choices()
        least = min(self.steps[name] for name, _ in found)
        return self.rng.choice([c for c in found if self.steps[c[0]] == least] if self.rng.random() < 0.7 else found)

    def choices(self) -> list[tuple[str, dict[str, Any]]]:
        """What can be done now, with what is drawn for it."""
        rng, store, then = self.rng, self.store, self.rng.random() < 0.5
        found: list[tuple[str, dict[str, Any]]] = [
            ("plan", {}), ("run", {}), ("kill", {"after": rng.randrange(150)}), ("kill", {"after": rng.randrange(60)}),
            ("edit_flags", {"z": rng.randrange(MOST), "then": then}), ("change_the_cut", {"px": rng.choice((16, 32))}),
            ("change_weights_or_recipe", {"kind": rng.choice(sorted(KINDS)), "seed": rng.randrange(4), "then": then}),
        ]  # fmt: skip
        found += [("append_sections", {"then": then})] * (len(store.volume) < MOST)
        found += [("revert", {"which": rng.randrange(100), "after": rng.choice((None, rng.randrange(60)))})] * 2 * bool(store.undo)
        if is_store(str(store.out)):
            found += [("merge", {}), ("verify", {"level": rng.choice(("lineage", "replay"))})]
        if store.ended is not None and (store.ended[1] == 1).any():
            found += [("corrupt_and_heal", {"what": rng.choice(SPOILT), "at": rng.randrange(10**6)})] * 2
        return found


@pytest.mark.parametrize("seed", range(int(os.environ.get("ZMEND_WALKS", "1"))))
def test_a_walk_over_all_rules(seed: int) -> None:
    walk = Walk(seed)
    walk.take(24)
    assert set(walk.steps) == set(RULES), f"never taken: {set(RULES) - set(walk.steps)}"


@pytest.fixture
def store() -> Iterator[Store]:
    store = Store()
    store.begin(depth=3, flagged={1, 4}, first="run", after=0)
    yield store
    store.teardown()


@pytest.mark.parametrize("what", SPOILT)
def test_whatever_is_spoilt_is_found_and_healed(what: str, store: Store) -> None:
    store.corrupt_and_heal(what=what, at=1 + SPOILT.index(what))
    store.what_ended_is_what_the_model_says()


def test_nothing_is_left_of_a_killed_slab_whose_flag_is_taken_back(store: Store) -> None:
    """Killed between its chunks and its record: nobody makes it again, and a merge would believe the chunks."""
    before, flagged = store.model(), set(store.flagged)
    orphans = 0
    for after in range(2, 60, 3):
        store.flagged = flagged | {2}
        store.killed(after)
        if store.ended is not None:
            break  # it needed less than that
        orphans += bool((voxels(store.out, "labels")[2] > 0).any())
        store.flagged = flagged
        store.run_to_its_end()
        store.what_ended_is_what_the_model_says()
        assert store.found() == [] and all(map(np.array_equal, store.ended, before))
    assert orphans, "no kill fell between chunks and record"
