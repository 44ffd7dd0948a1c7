"""Sites: what is understood, what goes together, and what `--site FILE` changes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from pipeline.cli import cli
from pipeline.config import check, load
from pipeline.errors import ConfigError
from pipeline.site import Site
from tests.jobs import build

GOOD = {"volume": {"path": "raw.zarr"}, "flags": "flags.csv", "output": {"path": "mended.zarr"}}


@pytest.mark.parametrize(
    ("site", "what", "do"),
    [
        ({"partiton": "gpu"}, "unknown key 'partiton'", "did you mean 'partition'?"),
        ({"partition": "gpu"}, "'partition' goes with kind: slurm, and the kind is local", "add 'kind: slurm'"),
        ({"kind": "slurm", "address": "tls://a:1"}, "'address' goes with kind: scheduler", "add 'kind: scheduler'"),
        ({"kind": "slurm", "workers": 0}, "0 workers work in this process", "leave the kind out"),
        ({"kind": "scheduler"}, "a scheduler has an address or a scheduler_file", "address: tls://host:8786"),
        ({"kind": "scheduler", "address": "a", "scheduler_file": "b"}, "one of the two", "address: tls://host:8786"),
        ({"kind": "slurm", "walltime": 43200}, "walltime is no time of SLURM's", "put it in quotes: walltime: '12:00:00'"),
        ({"kind": "slurm", "walltime": "soon"}, "walltime is no time of SLURM's", "put it in quotes"),
        ({"kind": "slurm", "walltime": "99:99:99"}, "'99:99:99': walltime is no time of SLURM's", "minutes and seconds end at 59"),
        ({"kind": "slurm", "walltime": "1-24:00"}, "'1-24:00': walltime is no time of SLURM's", "put it in quotes"),
        ({"kind": "slurm", "walltime": "1:00:00\n"}, "is no time of SLURM's", "put it in quotes"),
        ({"kind": "slurm", "walltime": "٣٠"}, "is no time of SLURM's", "put it in quotes"),
        ({"kind": "slurm", "walltime": "0:00"}, "'0:00': walltime is no time at all", "put it in quotes"),
        ({"kind": "slurm", "memory": "much"}, "'memory' is 'much'", "mend the value"),
        ({"kind": "pbs"}, "'kind' is 'pbs'", "mend the value"),
    ],
)
def test_what_does_not_fit_is_named_with_a_remedy(site, what, do) -> None:
    with pytest.raises(ConfigError) as e:
        check({**GOOD, "site": site})
    assert what in e.value.what
    assert do in e.value.do


def test_yaml_reads_a_bare_walltime_as_a_number(tmp_path: Path) -> None:
    (tmp_path / "z.yaml").write_text(yaml.safe_dump(GOOD) + "site: {kind: slurm, walltime: 12:00:00}\n")
    with pytest.raises(ConfigError, match="walltime is no time"):
        load(tmp_path / "z.yaml")


@pytest.mark.parametrize(
    ("walltime", "seconds"),
    [("30:00", 1800), ("04:00:00", 14400), ("1-00:00:00", 86400), ("2-12:30", 217800), ("0-01:00", 3600),
     ("90", 5400), ("90:00", 5400), ("3-7", 284400), ("100:00:00", 360000), ("1-23:59:59", 172799)],
)  # fmt: skip
def test_walltimes_are_slurms(walltime: str, seconds: int) -> None:
    assert Site(kind="slurm", walltime=walltime).walltime_s == seconds


def test_a_job_holds_a_worker_for_each_of_its_gpus() -> None:
    assert (Site(kind="slurm", workers=7).jobs, Site(kind="slurm", workers=7).workers_per_job) == (7, 1)
    assert (Site(kind="slurm", workers=10, gpus=4).jobs, Site(kind="slurm", workers=10, gpus=4).workers_per_job) == (3, 4)


def test_a_run_waits_longer_where_workers_wait_in_a_queue() -> None:
    assert Site().alone_s == 60
    assert Site(kind="slurm").alone_s == 86400
    assert Site(kind="slurm", patience_s=5).alone_s == 5


def load_with(tmp_path: Path, site: dict | None, own: dict, out: str = "mended.zarr"):
    (tmp_path / "z.yaml").write_text(yaml.safe_dump({**GOOD, "output": {"path": out}, "site": own}))
    if site is None:
        return load(tmp_path / "z.yaml").site
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/site.yaml").write_text(yaml.safe_dump(site))
    return load(tmp_path / "z.yaml", tmp_path / "elsewhere/site.yaml").site


def test_a_site_file_wins_and_leaves_what_it_does_not_name(tmp_path: Path) -> None:
    site = load_with(tmp_path, {"kind": "slurm", "workers": 8, "folder": "logs"}, {"workers": 2, "slab_px": 512})
    assert (site.kind, site.workers, site.slab_px) == ("slurm", 8, 512)
    assert site.folder == str(tmp_path / "elsewhere/logs"), "paths are relative to the file that names them"


def test_a_site_file_of_another_kind_drops_what_only_the_first_kind_knows(tmp_path: Path) -> None:
    site = load_with(tmp_path, {"kind": "local", "workers": 3}, {"kind": "slurm", "partition": "gpu", "slab_px": 512})
    assert (site.kind, site.workers, site.partition, site.slab_px) == ("local", 3, None, 512)


def test_what_is_wrong_in_a_site_file_is_said_of_that_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as e:
        load_with(tmp_path, {"kind": "slurm", "gpu": 1}, {})
    assert "did you mean 'gpus'?" in e.value.do
    assert "elsewhere/site.yaml, site.gpu" in e.value.where


def test_jobs_are_named_after_the_output(tmp_path: Path) -> None:
    site = load_with(tmp_path, None, {"kind": "slurm"})
    assert site.name is not None
    assert site.name.startswith("zmend-")
    assert site.folder == str(tmp_path / "mended.zarr.jobs")
    assert load_with(tmp_path, None, {"kind": "slurm"}).name == site.name
    assert load_with(tmp_path, None, {"kind": "slurm"}, "other.zarr").name != site.name
    assert load_with(tmp_path, None, {"kind": "local"}).name is None


def test_jobs_of_an_output_in_a_bucket_need_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="site.folder is missing") as e:
        load_with(tmp_path, None, {"kind": "slurm"}, "s3://bucket/out.zarr")
    assert "name a folder that every node sees" in e.value.do
    assert load_with(tmp_path, None, {"kind": "slurm", "folder": "/shared/x"}, "s3://bucket/out.zarr").folder == "/shared/x"


def test_a_plan_can_be_made_for_the_site_that_will_run_it(tmp_path: Path) -> None:
    job = build(tmp_path)
    config = str(job.config(recipe={"restorer": "linear"}))
    (tmp_path / "site.yaml").write_text("slab_px: 128\n")
    said = [CliRunner().invoke(cli, ["plan", config, "--json", *more]) for more in ((), ("--site", str(tmp_path / "site.yaml")))]
    assert [r.exit_code for r in said] == [0, 0], said[1].output
    slabs = [json.loads(r.output.splitlines()[-1])["totals"]["slabs"] for r in said]
    assert slabs[1] > slabs[0], "slabs are as small as the site asks"
