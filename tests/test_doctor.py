"""The doctor: what is fit, what is not, and what to change."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml

from pipeline import doctor, fitness
from pipeline.doctor import examine
from pipeline.errors import ConfigError
from pipeline.site import Site
from tests.jobs import build
from tests.slurm.daemons import Slurm
from tests.slurm.daemons import missing as no_slurm

ROWS = [["gpu*", "up", "1-00:00:00", "gpu:a100:4"], ["gpu*", "up", "1-00:00:00", "(null)"]]
CPU = [["cpu", "up", "infinite", "(null)"]]


def by_name(findings: list[dict]) -> dict[str, dict]:
    return {f["name"]: f for f in findings}


@pytest.mark.parametrize(
    ("rows", "site", "ok", "detail", "do"),
    [
        (ROWS, {"gpus": 4}, True, "gpu is up, limit 1-00:00:00", ""),
        (ROWS, {"walltime": "2-00:00:00"}, False, "gpu allows 1-00:00:00, the site asks for 2-00:00:00", "site.walltime: '1-00:00:00'"),
        (CPU, {"partition": "cpu", "gpus": 1}, False, "cpu has no GPUs", "gpus: 0"),
        (CPU, {"partition": "cpu", "walltime": "99-00:00:00"}, True, "cpu is up, limit infinite", ""),
        (CPU, {}, False, "there is no partition by default", "sinfo shows them"),
        ([], {"partition": "x"}, False, "there is no partition x", "sinfo shows them"),
        ([["gpu*", "drain", "1:00:00", ""]], {}, False, "gpu is drain", "wait, or name another"),
    ],
)
def test_a_partition_is_there_up_long_enough_and_has_gpus(rows, site, ok, detail, do) -> None:
    found = fitness.partition(Site(kind="slurm", **site), rows)
    assert (found["ok"], found["detail"]) == (ok, detail)
    assert found["do"].startswith(do) and bool(found["do"]) is not ok


def test_a_slab_must_end_within_the_walltime_and_fit_into_memory() -> None:
    totals = {"slabs": 10, "seconds": 6000, "least_memory_bytes": 3 << 30, "peak_memory_bytes": 9 << 30}
    fit = by_name(fitness.job(Site(kind="slurm", walltime="02:00:00", memory="16GB"), totals))
    assert fit["walltime"]["ok"] and fit["memory of a worker"]["ok"]
    unfit = by_name(fitness.job(Site(kind="slurm", walltime="00:30:00", memory="16GB", gpus=8), totals))
    assert not unfit["walltime"]["ok"] and "3 slabs take about 1800 s" in unfit["walltime"]["detail"]
    assert "site.slab_px" in unfit["walltime"]["do"]
    assert not unfit["memory of a worker"]["ok"] and "2.0 GiB; one slab takes 3.0, 3 at once 9.0 GiB" in unfit["memory of a worker"]["detail"]


def test_without_slurms_commands_that_is_all_it_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    found = by_name(fitness.examine_site(Site(kind="slurm")))
    assert found["SLURM"]["detail"] == "sbatch is not here"
    assert "load SLURM's module" in found["SLURM"]["do"]
    assert "partition" not in found


def test_a_network_that_is_not_there_is_named_with_those_that_are() -> None:
    assert fitness.interface("lo")["ok"]
    found = fitness.interface("ib7")
    assert found["detail"].startswith("no ib7, but ")
    assert "lo" in found["detail"]


def test_a_configuration_is_examined_with_its_site_and_its_job(tmp_path: Path) -> None:
    job = build(tmp_path)
    (tmp_path / "slurm.yaml").write_text(yaml.safe_dump({"kind": "slurm", "memory": "1MB", "interface": "lo"}))
    found = by_name(examine(str(job.config()), str(tmp_path / "slurm.yaml"))["findings"])
    assert not found["memory of a worker"]["ok"]
    assert found["interface"]["ok"] and found["loopback"]["ok"] and found["rename over"]["ok"]
    assert "memory of a worker" not in by_name(examine(str(job.config()))["findings"]), "its own site is local"


def test_a_site_that_is_misspelt_is_said_to_be(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text("kind: slurm\nwaltime: '1:00:00'\n")
    with pytest.raises(ConfigError) as e:
        examine(str(tmp_path), str(tmp_path / "s.yaml"))
    assert "did you mean 'walltime'?" in e.value.do


def test_the_drivers_version_is_the_kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    version = tmp_path / "version"
    version.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 22:23:56 UTC 2024\n")
    monkeypatch.setattr(doctor, "DRIVER", version)
    assert doctor._driver() == "550.54.15"
    monkeypatch.setattr(doctor, "DRIVER", tmp_path / "absent")
    assert doctor._driver() == "unknown"


def test_a_folder_that_cannot_be_written_is_not_fit() -> None:
    if os.geteuid() == 0:
        found = by_name(examine("/proc")["findings"])
        assert not found["file system"]["ok"] and "that you may write in" in found["file system"]["do"]


@pytest.mark.skipif(bool(no_slurm()), reason=no_slurm() or "-")
def test_a_real_slurm_is_found_fit(tmp_path: Path) -> None:
    import tempfile

    with tempfile.TemporaryDirectory(prefix="zmend-slurm-") as folder, Slurm(Path(folder) / "slurm"):
        found = by_name(fitness.examine_site(Site(kind="slurm", gpus=2, partition="low", interface="lo")))
        assert all(f["ok"] for f in found.values()), found
        assert found["partition"]["detail"] == "low is up, limit 1-00:00:00"
        assert "no partition nowhere" in fitness.examine_site(Site(kind="slurm", partition="nowhere"))[-1]["detail"]
