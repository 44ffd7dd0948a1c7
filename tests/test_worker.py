"""What a worker's process does around a slab: tests itself, keeps within memory, overlaps, and ends when it must."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from distributed import LocalCluster

from pipeline import selftest, worker
from pipeline import slab as slab_module
from pipeline.cluster import connect, threads_per_worker
from pipeline.errors import PlanChangedError, StoreLockedError, UnfitError, UnfitWorkerError
from pipeline.job import install, make_store, propose
from pipeline.ledger import Ledger
from pipeline.lock import StoreLock
from pipeline.memory import for_slabs, of_decoding, of_restorer, of_shelf, of_slab
from pipeline.plan import Plan
from pipeline.planfile import plan_path
from pipeline.recipe import Recipe
from pipeline.restorer import Needs, load
from pipeline.run import run
from pipeline.site import Site
from pipeline.worker import Clock, Post, Task, bench
from tests.jobs import NM, Job, build, store_digest

DRIFTING = "tests.devices:Drifting"


@pytest.fixture
def job(tmp_path: Path) -> Job:
    job = build(tmp_path)
    job.flags("3\n")
    return job


def prepared(job: Job, out: str = "out.zarr", **parts: Any) -> Plan:
    """A store with a plan in it, as a run leaves it to its workers."""
    proposal = propose(job.load(out, **parts))
    make_store(proposal)
    install(proposal)
    return proposal.plan


def post(job: Job, plan: Plan, **what: Any) -> Post:
    return Post(str(job.folder / "out.zarr"), plan.hash, **what)


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    """One real worker process."""
    with connect(Site(workers=1)) as client:
        yield client


def told(client: Any, task: Task, plan: Plan) -> BaseException:
    """What a worker raises for the plan's first slab."""
    error: BaseException = client.submit(task, plan.slabs[0].row(), retries=0, pure=False).exception(timeout=60)
    return error


# --- the test before the first slab


@pytest.mark.parametrize(
    ("options", "device", "words"),
    [
        ({"off": 40}, "", "its test tile is off by .* grey levels on average"),
        ({"off": 40, "kind": "cuda"}, "cuda", "its test tile is off by"),
        ({"nan": True}, "", "the test tile failed: ArithmeticError: .* are no numbers"),
        ({}, "cuda", "the site gives each worker a cuda device, but this process sees none and would use the cpu"),
    ],
)
def test_a_worker_that_fails_its_test_does_no_slab(
    job: Job, client: Any, options: dict[str, Any], device: str, words: str
) -> None:
    recipe = {"restorer": DRIFTING, "options": options}
    plan = prepared(job, recipe=recipe)
    golden = selftest.golden(Recipe.model_validate(recipe), NM)
    assert len(golden) == 2 * selftest.SAMPLES
    task = Task(post(job, plan, device=device, golden=golden, expendable=True), "a run")
    for _ in range(2):  # the verdict stands
        error = told(client, task, plan)
        assert isinstance(error, UnfitWorkerError)
        with pytest.raises(UnfitWorkerError, match=words):
            raise error
        assert f"process {client.submit(os.getpid, pure=False).result()}" in error.where
        assert "zmend doctor" in error.do
    assert not Ledger(task.post.out).has(plan.slabs[0].id)


@pytest.mark.parametrize("options", [{"off": 0.4}, {"off": 0.9, "kind": "cuda"}])
def test_rounding_is_no_fault(job: Job, client: Any, options: dict[str, Any]) -> None:
    recipe = {"restorer": DRIFTING, "options": options}
    plan = prepared(job, recipe=recipe)
    golden = selftest.golden(Recipe.model_validate(recipe), NM)
    task = Task(post(job, plan, golden=golden, expendable=True), "a run")
    assert told(client, task, plan) is None
    assert Ledger(task.post.out).has(plan.slabs[0].id)


def test_one_voxel_may_be_off_further_on_another_kind_of_device() -> None:
    wanted = np.full(selftest.SAMPLES, 100, np.uint8)
    made = wanted.copy()
    made[5] = 104
    assert selftest.far_off(made, wanted, alike=True) == "its test tile is off by 0.1 grey levels on average, 4 at most"
    assert selftest.far_off(made, wanted, alike=False) == ""
    assert "off by 2.0" in selftest.far_off(wanted - 2, wanted, alike=False)


def test_a_restorer_that_names_no_device_needs_no_golden_tile() -> None:
    assert selftest.golden(Recipe(restorer="linear"), NM) == ""
    restorer, needs = load(Recipe(restorer="linear"), NM)
    assert selftest.fault(restorer, needs, device="cuda", golden="") == ""


def test_the_diffusion_restorer_passes_its_own_test() -> None:
    recipe = Recipe(steps=1)
    golden = selftest.golden(recipe, NM, threads=1)
    restorer, needs = load(recipe, NM, threads=1)
    assert selftest.fault(restorer, needs, device="", golden=golden) == ""
    other, _ = load(recipe.model_copy(update={"seed": 1, "steps": 4}), NM, threads=1)
    assert "off by" in selftest.fault(other, needs, device="", golden=golden), "other noise is not the plan's"


def test_memory_that_is_short_is_no_verdict() -> None:
    restorer, needs = load(Recipe(restorer=DRIFTING), NM)
    restorer.restore = _short  # type: ignore[method-assign]
    with pytest.raises(MemoryError):
        selftest.fault(restorer, needs, device="", golden="")


def _short(*_: object) -> None:
    raise MemoryError


def test_a_worker_with_other_weights_is_not_fit_but_a_driver_is_told(job: Job, client: Any) -> None:
    plan = prepared(job)
    with connect(Site(workers=1)) as other:
        other.submit(_retrain).result()
        error = told(other, Task(post(job, plan, expendable=True), "a run"), plan)
    assert isinstance(error, UnfitWorkerError)
    assert "the weights here are not the weights of the plan" in error.why
    Path(plan_path(str(job.folder / "out.zarr"), plan.hash)).unlink()
    with pytest.raises(PlanChangedError):
        bench(post(job, plan, threads=7))


def _retrain() -> None:
    import tests.toys

    tests.toys.Textured.digest = "other weights"


def test_where_no_worker_is_fit_the_run_ends_and_says_why(job: Job) -> None:
    events: list[dict[str, Any]] = []
    recipe = {"restorer": DRIFTING, "options": {"nan": True}}
    with pytest.raises(UnfitError, match="no worker is left|not fit") as e:
        run(propose(job.load(recipe=recipe, site={"workers": 1, "slab_px": 128})), on_event=events.append)
    assert "are no numbers" in str(e.value)
    assert e.value.exit_code == 7
    assert any("are no numbers" in event["why"] for event in events if event["kind"] == "worker_left")


def test_a_worker_that_is_not_fit_leaves_and_the_others_do_its_slabs(job: Job) -> None:
    marks, events = job.folder / "marks", []
    marks.mkdir()
    recipe = {"restorer": "tests.devices:Lame", "options": {"marks": str(marks)}}
    summary = run(propose(job.load(recipe=recipe, site={"workers": 2, "slab_px": 128})), on_event=events.append)
    assert summary["done"] == summary["slabs"]
    (left,) = [e for e in events if e["kind"] == "worker_left"]
    assert f"process {next(marks.iterdir()).name}" in left["why"]
    assert "are no numbers" in left["why"]
    job.run("undisturbed.zarr", recipe=recipe, site={"slab_px": 128})
    assert store_digest(job.folder / "out.zarr") == store_digest(job.folder / "undisturbed.zarr")


def test_workers_elsewhere_are_held_to_the_drivers_golden_tile(job: Job) -> None:
    recipe = {"restorer": DRIFTING, "options": {"off": 40}}
    with LocalCluster(n_workers=1, threads_per_worker=3, host="127.0.0.1", dashboard_address=None) as there:
        site = {"kind": "scheduler", "workers": 1, "address": there.scheduler_address, "slab_px": 128}
        with pytest.raises(UnfitError, match="no worker is left|not fit") as e:
            run(propose(job.load(recipe=recipe, site=site)))
        assert "its test tile is off by" in str(e.value)


# --- memory


def test_the_budget_is_what_the_restorer_leaves() -> None:
    needs = Needs("x", "0", context=1, max_gap=1, tile=64, halo=16, memory_bytes=1000)
    assert of_restorer(needs) == 3 * 96 * 96 * 32 + 1000
    assert of_shelf(10_000_000) == 1_250_000
    assert of_decoding(10_000) == 320_000, "so many at once at most"
    assert of_decoding(10 << 20) == 256 << 20
    assert of_decoding(1 << 30) == 1 << 30, "one alone always may"
    assert for_slabs(10_000_000, needs, 10_000) == 8_000_000 - of_restorer(needs) - 1_250_000 - 320_000
    assert for_slabs(0, needs, 1) == 0, "not known: not bounded"
    assert for_slabs(1000, needs, 1) == 1, "one slab at a time, however little there is"


def at_once(task: Task, plan: Plan, lanes: int = 3) -> float:
    """Work off the plan in so many lanes of this process; wall seconds."""
    began = time.perf_counter()
    with ThreadPoolExecutor(lanes) as pool:
        list(pool.map(task, [s.row() for s in plan.slabs]))
    return time.perf_counter() - began


class Peak:
    """The most that was held at once, seen from inside the slabs' reads."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, task: Task) -> None:
        self.bytes, self.slabs, self.lock = 0, 0, threading.Lock()
        here, look = bench(task.post), worker.restore

        def watched(*args: Any, **kw: Any) -> Any:
            with self.lock:
                self.bytes, self.slabs = max(self.bytes, here.budget.used), max(self.slabs, here.budget.held)
            time.sleep(0.02)
            return look(*args, **kw)

        monkeypatch.setattr(worker, "restore", watched)


@pytest.mark.parametrize(("slabs_that_fit", "lanes_used"), [(1, 1), (2, 2), (9, 3)])
def test_slabs_in_hand_stay_within_memory(
    job: Job, monkeypatch: pytest.MonkeyPatch, slabs_that_fit: int, lanes_used: int
) -> None:
    plan = prepared(job, output={"chunk_px": 64}, site={"slab_px": 64})
    most = max(of_slab(s.read, s.write, (8, 128, 128), 1) for s in plan.slabs)
    task = Task(post(job, plan, memory=most * slabs_that_fit), "a run")
    peak = Peak(monkeypatch, task)
    at_once(task, plan)
    assert peak.slabs >= lanes_used
    assert peak.bytes <= most * slabs_that_fit
    assert all(Ledger(task.post.out).has(s.id) for s in plan.slabs)


# --- overlap


def test_reading_restoring_and_writing_overlap_in_a_worker(job: Job) -> None:
    """Each stage takes 0.25 s and more: one lane would keep the restorer busy for a third of the time, two for two."""
    options = {"read_s": 0.25, "restore_s": 0.25, "write_s": 0.25}
    recipe = {"restorer": "tests.devices:Slow", "options": options}
    plan = prepared(job, recipe=recipe, output={"chunk_px": 64}, site={"slab_px": 64})
    task = Task(post(job, plan, expendable=True), "a run")
    slabs = [s.row() for s in plan.slabs][:21]
    with connect(Site(workers=1)) as client:
        client.submit(task, slabs.pop(), pure=False).result()  # opens everything
        began = time.perf_counter()
        answers = client.gather(client.map(task, slabs, pure=False))
        wall = time.perf_counter() - began
    sums = {stage: sum(a["stages"][stage] for a in answers) for stage in ("read", "restore", "write")}
    assert min(sums.values()) >= 0.25 * len(slabs) * 0.95
    assert sums["restore"] / wall > 0.7, f"the restorer is busy {sums['restore'] / wall:.0%} of {wall:.1f} s: {sums}"
    assert wall < 0.5 * sum(sums.values())


def test_stages_tell_where_the_time_went() -> None:
    clock = Clock()
    for step in ("read", "wait", "restore", "write", "record"):
        time.sleep(0.01)
        clock(step)
    assert list(clock.stages) == ["place", "read", "wait", "restore", "write", "record"]
    assert all(seconds >= 0.01 for stage, seconds in clock.stages.items() if stage != "record")


def test_a_slab_that_was_finished_before_is_not_done_again(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = prepared(job)
    task = Task(post(job, plan), "a run")
    first = [task(s.row()) for s in plan.slabs]
    monkeypatch.setattr(slab_module, "look", None)
    for before, slab in zip(first, plan.slabs, strict=True):
        assert task(slab.row())["voxels"] == before["voxels"]


# --- the end of a process


@pytest.mark.parametrize(("restorer", "cause"), [("Hungry", "memory"), ("Lost", "error")])
def test_a_process_that_cannot_go_on_ends_and_its_slabs_are_done(job: Job, restorer: str, cause: str) -> None:
    marks, events = job.folder / "marks", []
    marks.mkdir()
    site = {"workers": 2, "slab_px": 128}
    recipe = {"restorer": f"tests.devices:{restorer}", "options": {"marks": str(marks)}}
    summary = run(propose(job.load(recipe=recipe, site=site)), on_event=events.append)
    (mark,) = marks.iterdir()
    assert not psutil.pid_exists(int(mark.name.partition(".")[0])), "the process has ended"
    assert summary["done"] == summary["slabs"]
    failures = [e for e in events if e["kind"] == "failure" and e["cause"] != "lost"]
    assert [e["cause"] for e in failures] == [cause], "told once: no other slab met the same error"
    job.run("undisturbed.zarr", recipe={**recipe, "options": {"marks": str(marks)}}, site={"slab_px": 128})
    assert store_digest(job.folder / "out.zarr") == store_digest(job.folder / "undisturbed.zarr")


def test_the_drivers_own_process_is_never_ended(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = prepared(job)
    task = Task(post(job, plan), "a run")
    monkeypatch.setattr(bench(task.post).job.restorer, "restore", _short)
    with pytest.raises(MemoryError):
        task(plan.slabs[0].row())
    assert worker._EXIT.reason == ""


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:  # it has just ended: of an earlier test, perhaps
        return ""


@contextmanager
def signalled(number: int, ready: Callable[[], bool]) -> Iterator[list[int]]:
    """Send a signal to one worker process of this one's children, once."""
    hit: list[int] = []

    def wait() -> None:
        while not ready():
            time.sleep(0.01)
        nannied = [p for p in psutil.Process().children(recursive=True) if "spawn_main" in _command(p)]
        hit.append(nannied[0].pid)
        os.kill(nannied[0].pid, number)

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    yield hit
    thread.join(10)


def test_a_worker_that_is_told_to_leave_spoils_nothing(job: Job) -> None:
    recipe = {"restorer": "tests.devices:Slow", "options": {"restore_s": 0.05}}
    records = job.folder / "out.zarr" / "zmend" / "records"
    with signalled(signal.SIGTERM, lambda: len(list(records.glob("??/*.json"))) > 0) as hit:
        summary = job.run(recipe=recipe, site={"workers": 2, "slab_px": 128})
    assert hit
    assert not psutil.pid_exists(hit[0])
    assert summary["done"] == summary["slabs"]
    job.run("undisturbed.zarr", recipe=recipe, site={"slab_px": 128})
    assert store_digest(job.folder / "out.zarr") == store_digest(job.folder / "undisturbed.zarr")


# --- threads


def _torch_threads(weights: str, threads: int) -> tuple[int, str | None]:
    import torch

    from model.restorer import DiffusionRestorer

    restorer = DiffusionRestorer(weights=weights, voxel_nm=(47.5, 4.6, 4.6), threads=threads, device="cpu")
    restorer.device()
    return torch.get_num_threads(), os.environ.get("OMP_NUM_THREADS")


def test_a_cpu_worker_uses_all_threads_that_the_site_gives_it(client: Any) -> None:
    site = Site(workers=1, threads=2)
    assert threads_per_worker(site) == 2
    threads, nannys = client.submit(_torch_threads, "default", threads_per_worker(site), pure=False).result(timeout=120)
    assert nannys == "1", "dask's nanny would have left it one"
    assert threads == 2


def test_the_lock_is_asked_for_before_each_chunk_and_the_record(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, out, asked = prepared(job), str(job.folder / "out.zarr"), []
    monkeypatch.setattr(worker, "still_held", lambda *told: asked.append(told))
    done = Task(replace(post(job, plan), lock="mine"), "a run")(plan.slabs[0].row())
    chunks = Ledger(out).get(done["slab"])["chunks"]
    assert asked == [(out, "mine")] * (sum(len(chunk) - 2 for chunk in chunks) + 1) and chunks, "of each array, and the record"


def test_an_orphan_writes_nothing_once_its_run_has_lost_the_store(job: Job) -> None:
    """Its driver was killed, another run has taken the lock over, or has ended: neither a chunk nor a record."""
    plan = prepared(job)
    out = str(job.folder / "out.zarr")
    row = plan.slabs[0].row()
    with StoreLock(out) as lock:
        mine, other = (replace(post(job, plan), lock=name) for name in (lock.name, "0123456789abcdef"))
        before = store_digest(out)
        with pytest.raises(StoreLockedError, match="(?s)holds the store no more.*another run has taken it over"):
            Task(other, "an orphan's run")(row)
        assert store_digest(out) == before
        assert Task(mine, "a run")(row)["slab"] == plan.slabs[0].id
    with pytest.raises(StoreLockedError, match="(?s)holds the store no more.*it has ended"):
        Task(mine, "a run")(plan.slabs[1].row())
