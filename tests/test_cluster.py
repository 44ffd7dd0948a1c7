"""Clusters: how many workers, what is said where there is no GPU, and who is let in."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline import cluster
from pipeline.cluster import (
    DASK_YAML,
    connect,
    make_certificates,
    read_certificates,
    threads_per_worker,
    workers,
)
from pipeline.errors import UnfitError
from pipeline.lanes import LANES
from pipeline.site import Site
from pipeline.slurm import directives, gone, job_options, last_words
from tests.ports import answers, family, listening


def test_local_workers_have_lanes_and_stay_on_loopback() -> None:
    with connect(Site(workers=1)) as client:
        assert workers(client) == 1
        assert list(client.nthreads().values()) == [LANES]
        assert listening(family(os.getpid())) == {}
    assert cluster.SETTINGS["distributed.scheduler.work-stealing"] is False


def test_settings_are_in_force_twice_in_one_process() -> None:
    import dask

    for _ in range(2):
        with connect(Site(workers=1)) as client:
            client.submit(int, 3).result()
            assert dask.config.get("distributed.admin.log-length") == 200
        assert dask.config.get("distributed.comm.require-encryption") is None


@pytest.mark.skipif(importlib.util.find_spec("dask_cuda") is not None, reason="dask-cuda is installed here")
def test_without_dask_cuda_the_cpu_is_used_and_that_is_said_once() -> None:
    told: list[dict] = []
    with connect(Site(kind="cuda", workers=1), told.append) as client:
        assert workers(client) == 1
    (event,) = told
    assert event["kind"] == "warning"
    assert "dask-cuda is not installed (pip install 'zmend[gpu]'): the CPU is used" in event["text"]


@pytest.mark.parametrize(
    ("pynvml", "words"),
    [
        ("raise ImportError('no module named cuda')", "dask-cuda cannot be imported (no module named cuda)"),
        ("def nvmlInit(): raise NVMLError('Library Not Found')", "the NVIDIA driver does not answer (Library Not Found)"),
        ("def nvmlInit(): pass\ndef nvmlDeviceGetCount(): return 0", "no GPU is visible"),
    ],
)
def test_every_way_to_be_without_a_gpu_is_told_apart(pynvml: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "dask_cuda.py").write_text("")
    (tmp_path / "pynvml.py").write_text(f"class NVMLError(Exception): pass\n{pynvml}\n")
    code = "from pipeline.cluster import visible_gpus; print(visible_gpus())"
    env = {**os.environ, "PYTHONPATH": f"{tmp_path}:{Path(__file__).parents[1]}"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str((0, words))


def test_threads_are_those_of_the_workers_host() -> None:
    assert threads_per_worker(Site(kind="slurm", cores=16, gpus=4)) == 4
    assert threads_per_worker(Site(kind="slurm", cores=6)) == 6
    assert threads_per_worker(Site(kind="slurm", cores=6, threads=2)) == 2


def test_gpus_share_the_hosts_cores_and_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """With `kind: cuda` and nothing else there are as many workers as GPUs, and not one."""
    monkeypatch.setattr(cluster, "visible_gpus", lambda: (8, ""))
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    assert cluster.processes_here(Site(kind="cuda")) == 8
    assert cluster.processes_here(Site(kind="cuda", workers=3)) == 3
    assert cluster.processes_here(Site(kind="cuda", workers=99)) == 8
    assert threads_per_worker(Site(kind="cuda")) == 8
    assert cluster.memory_per_worker(Site(kind="cuda")) * 8 <= cluster.memory_per_worker(Site(workers=1))
    monkeypatch.setattr(cluster, "visible_gpus", lambda: (0, "none"))
    assert cluster.processes_here(Site(kind="cuda", workers=3)) == 3


# --- a scheduler that is there already


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keys") / "tls"
    make_certificates(folder)
    return folder


@pytest.fixture(scope="module")
def scheduler(keys: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, list[int]]]:
    """A scheduler and a worker with TLS, listening on every interface; its file, and their processes."""
    file = tmp_path_factory.mktemp("scheduler") / "scheduler.json"
    flags = ["--scheduler-file", str(file), "--dashboard-address", "127.0.0.1:0"]
    flags += [part for what, name in cluster.PEMS.items() for part in (f"--tls-{what.replace('_', '-')}", str(keys / name))]
    commands = (["dask_scheduler", "--host", "tls://", "--port", "0", *flags], ["dask_worker", "--protocol", "tls", *flags])
    env = {**os.environ, "DASK_CONFIG": str(DASK_YAML)}
    started = []
    for command in commands:
        started.append(subprocess.Popen([sys.executable, "-m", f"distributed.cli.{command[0]}", *command[1:]], env=env, stderr=subprocess.DEVNULL))
        while not file.exists():
            time.sleep(0.05)
    yield file, [p.pid for p in started]
    for process in reversed(started):
        process.terminate()
        process.wait(20)


def test_a_scheduler_is_joined_with_its_certificates(scheduler, keys: Path) -> None:
    with connect(Site(kind="scheduler", scheduler_file=str(scheduler[0]), tls=str(keys))) as client:
        end = time.monotonic() + 30
        while workers(client) < 1:
            assert time.monotonic() < end
            time.sleep(0.1)
        assert client.submit(int, 7).result() == 7


def test_nothing_off_loopback_answers_without_the_runs_own_certificate(scheduler, keys: Path, tmp_path: Path) -> None:
    make_certificates(tmp_path / "foreign")
    open_ports = listening(pid for parent in scheduler[1] for pid in family(parent))
    assert len(open_ports) >= 3, "scheduler, nanny and worker"
    for port, address in open_ports.items():
        host = address if address not in ("0.0.0.0", "::") else "127.0.0.1"
        assert answers(host, port, keys), f"{port} does not even answer its own"
        assert not answers(host, port, None), f"{port} answers in plain text"
        assert not answers(host, port, tmp_path / "foreign"), f"{port} answers a foreign certificate"


@pytest.mark.parametrize("who", ["plain", "foreign"])
def test_a_stranger_is_refused_in_words(scheduler, who: str, tmp_path: Path) -> None:
    import json

    address = json.loads(scheduler[0].read_text())["address"]
    make_certificates(tmp_path)
    port = address.rpartition(":")[2]
    site = {"address": f"tcp://127.0.0.1:{port}"} if who == "plain" else {"address": f"tls://127.0.0.1:{port}", "tls": str(tmp_path)}
    began = time.monotonic()
    with pytest.raises(UnfitError, match="the scheduler does not answer") as e, connect(Site(kind="scheduler", **site)):
        pass
    assert "that site.tls holds its certificates" in e.value.do
    assert time.monotonic() - began < 90


def test_no_scheduler_elsewhere_is_spoken_to_in_plain_text() -> None:
    with pytest.raises(UnfitError, match="is spoken to without TLS") as e, connect(Site(kind="scheduler", address="tcp://10.0.0.1:8786")):
        pass
    assert "may run code as you" in e.value.why


def test_a_scheduler_that_never_announces_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "FILE_S", 0.1)
    with pytest.raises(UnfitError, match="no scheduler has announced itself"), connect(Site(kind="scheduler", scheduler_file=str(tmp_path / "s"))):
        pass


def test_certificates_are_for_their_owner_alone(keys: Path, tmp_path: Path) -> None:
    assert {oct(p.stat().st_mode)[-3:] for p in keys.iterdir()} == {"600"}
    assert oct(keys.stat().st_mode)[-3:] == "700"
    with pytest.raises(UnfitError, match=r"ca\.pem is missing") as e:
        read_certificates(tmp_path)
    assert "the same that the scheduler was started with" in e.value.do


# --- SLURM, as far as it is decided here


def test_a_job_is_told_what_the_site_says() -> None:
    site = Site(kind="slurm", gpus=2, cores=8, memory="64GB", partition="gpu", qos="long", directives=("--constraint=a100",), setup=("module load cuda",))
    options = job_options(site, LANES, DASK_YAML)
    assert options["worker_command"] == "dask_cuda.cli"
    assert (options["cores"], options["processes"], options["job_cpu"]) == (2 * LANES, 2, 8), "dask's threads are not SLURM's cores"
    assert options["python"] == f"exec {sys.executable} -P"
    assert options["job_script_prologue"][0] == "module load cuda"
    assert directives(site) == ["--qos=long", "--gres=gpu:2", "--requeue", "--open-mode=append", "--signal=B:USR1@120", "--constraint=a100"]
    assert job_options(Site(kind="slurm"), LANES, DASK_YAML)["worker_command"] == "distributed.cli.dask_worker"


def test_a_job_is_gone_when_slurm_does_not_know_it() -> None:
    assert gone({"a": "1", "b": "2", "c": "3"}, {"2", "9"}) == ["a", "c"]
    assert gone({}, {"2"}) == []


def test_the_last_words_of_jobs_are_those_of_the_newest_log(tmp_path: Path) -> None:
    assert last_words(tmp_path, "zmend-1") == "they have left no log"
    for i, text in enumerate(("old", "Traceback\nModuleNotFoundError: zarr\n", "")):
        path = tmp_path / f"zmend-1-{i}.err"
        path.write_text(text)
        os.utime(path, (i, i))
    assert last_words(tmp_path, "zmend-1") == "ModuleNotFoundError: zarr"


def test_a_cluster_that_dask_is_late_to_end_spoils_no_run() -> None:
    class Late:
        left = False

        def __enter__(self) -> None: ...

        def __exit__(self, *_: object) -> None:
            self.left = True
            raise TimeoutError

    late = Late()
    with cluster._ended(late):
        pass
    assert late.left


def test_a_worker_that_is_killed_while_it_starts_costs_another_try(monkeypatch: pytest.MonkeyPatch) -> None:
    """It ended the run as a bug. dask says no more than this."""
    import distributed

    tries: list[int] = []
    real = distributed.Nanny.start

    async def start(nanny: Any) -> Any:
        tries.append(1)
        if len(tries) == 1:
            raise RuntimeError("Nanny failed to start.")
        return await real(nanny)

    monkeypatch.setattr(distributed.Nanny, "start", start)
    with cluster.connect(Site(workers=1)) as client:
        assert client.submit(os.getpid).result(60) != os.getpid()
    assert len(tries) > 1


def test_workers_that_never_start_are_told_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    import distributed

    def start(nanny: Any) -> None:
        raise RuntimeError("Nanny failed to start.")

    monkeypatch.setattr(distributed.Nanny, "start", start)
    words = r"the workers do not start(.|\n)*out of memory, or killed from outside"
    with pytest.raises(UnfitError, match=words), cluster.connect(Site(workers=1)):
        pass
