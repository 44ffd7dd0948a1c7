"""What deploy/ holds: settings, examples of sites, and batch scripts that say what the site says."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from pipeline.batch import memory_bytes, render
from pipeline.cli import cli
from pipeline.cluster import DASK_YAML, SETTINGS
from pipeline.config import check
from pipeline.errors import UsageError
from pipeline.lanes import LANES
from pipeline.site import Site
from tests.jobs import ROOT, build

SITES = sorted((ROOT / "deploy").glob("site-*.yaml"))
GPU = Site(
    kind="slurm", workers=16, gpus=8, cores=64, memory="512GB", walltime="1-00:00:00", partition="gpu", driver_partition="cpu",
    account="em", qos="long", directives=("--constraint=h100",), setup=("module load cuda",), interface="ib0", name="zmend-1",
    folder="/shared/it's here",
)  # fmt: skip


def texts(site: Site = GPU) -> dict[str, str]:
    return render(site, Path("/data/zmend.yaml"), Path(str(site.folder)), lanes=LANES, dask_yaml=DASK_YAML)


@pytest.mark.parametrize("site", [GPU, Site(kind="slurm", name="plain", folder="/shared/jobs")], ids=["gpu", "plain"])
def test_the_scripts_are_good_shell(site: Site, tmp_path: Path) -> None:
    for name, text in texts(site).items():
        if name.endswith(".sbatch"):
            path = tmp_path / name
            path.write_text(text)
            tool = Path(sys.executable).with_name("shellcheck")
            for command in (["bash", "-n", str(path)], [str(tool), "--severity=style", "--exclude=SC2064", str(path)]):
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                assert done.returncode == 0, done.stdout + done.stderr


def test_the_workers_script_asks_for_what_the_site_says() -> None:
    text = texts()["workers.sbatch"]
    for line in ("--array=0-1", "--partition=gpu", "--account=em", "--qos=long", "--gres=gpu:8", "--cpus-per-task=64", "--mem=524288M",
                 "--time=1-00:00:00", "--requeue", "--open-mode=append", "--signal=B:USR1@120", "--constraint=h100"):  # fmt: skip
        assert f"#SBATCH {line}\n" in text, line
    for part in ("dask_cuda.cli", f"--nthreads {LANES} ", "--interface ib0", "module load cuda\n", "--dashboard-address 127.0.0.1:0", "--tls-key"):
        assert part in text, part


def test_no_module_of_the_folder_that_a_job_starts_in_is_taken_for_an_installed_one() -> None:
    calls = [line for text in texts().values() for line in text.splitlines() if sys.executable in line]
    assert len(calls) == 4 and all(f"{sys.executable} -P -" in line for line in calls)


def test_the_driver_asks_for_no_gpu_and_goes_to_its_own_partition() -> None:
    text = texts()["driver.sbatch"]
    assert "#SBATCH --partition=cpu\n" in text
    assert "gres" not in text
    assert "scontrol requeue" in text
    assert "scancel --user=\"$(id -un)\" --name=zmend-1-workers" in text


def test_the_drivers_site_is_one_that_zmend_understands() -> None:
    site = Site.model_validate(yaml.safe_load(texts(GPU.model_copy(update={"slab_px": 2048}))["driver-site.yaml"]))
    assert (site.kind, site.workers, site.threads) == ("scheduler", 16, 8)
    assert site.tls == "/shared/it's here/tls"


def test_only_slurm_is_rendered() -> None:
    with pytest.raises(UsageError, match="the site's kind is local") as e:
        render(Site(), Path("c"), Path("f"), lanes=3, dask_yaml=DASK_YAML)
    assert "kind: slurm" in e.value.do


@pytest.mark.parametrize(("text", "size"), [("16GB", 16 << 30), ("16 GiB", 16 << 30), ("16G", 16 << 30), ("954M", 954 << 20), ("1TB", 1 << 40)])
def test_memory_is_read_as_slurm_reads_it(text: str, size: int) -> None:
    assert memory_bytes(Site(kind="slurm", memory=text).memory) == size


@pytest.mark.parametrize("recipe", ["Dockerfile", "zmend.def"])
def test_images_hold_all_that_is_installed_at_the_pinned_versions(recipe: str) -> None:
    text = (ROOT / "deploy" / recipe).read_text()
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    folders = {name.partition(".")[0] for name in packages}
    for part in (*folders, "pyproject.toml", "constraints.txt", "README.md", "LICENSE"):
        assert re.search(rf"(?m)^(COPY|   ).*\b{re.escape(part)}\b", text), part
    (pin,) = re.findall(r"(?m)^(torch==.*)$", (ROOT / "constraints.txt").read_text())
    assert f"{pin} " in text or f"{pin}\n" in text
    assert text.count("-c constraints.txt") == 2


def test_what_is_installed_holds_the_templates_and_settings() -> None:
    """They are read at run time, so they must come along with the package."""
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert "deploy" in tools["packages"]
    come_along = {p for pattern in tools["package-data"]["deploy"] for p in (ROOT / "deploy").glob(pattern)}
    templates = {*(ROOT / "deploy").glob("*/*.j2")}
    assert {DASK_YAML, *templates, *SITES} <= come_along
    assert len(templates) == 5


def test_every_example_is_a_site() -> None:
    assert {p.stem for p in SITES} >= {"site-laptop", "site-gpu-node", "site-slurm", "site-s3"}
    for path in SITES:
        job = {"volume": {"path": "a"}, "flags": "b", "output": {"path": "c"}}
        check({**job, "site": yaml.safe_load(path.read_text())}, path.name)


def test_every_setting_of_dask_has_a_reason_and_exists() -> None:
    import dask
    import distributed  # noqa: F401  # brings its defaults

    known = dask.config.config
    for key in SETTINGS:
        assert dask.config.get(key, None, config=known) is not None, key
    lines = DASK_YAML.read_text().splitlines()
    values = [i for i, line in enumerate(lines) if ":" in line and not line.strip().startswith("#") and line.partition(":")[2].strip()]
    for i in values:
        above = [line.strip() for line in lines[:i]]
        while above and ":" in above[-1] and not above[-1].startswith("#") and above[-1].partition(":")[2]:
            above.pop()  # settings that share a reason
        assert above[-1].startswith("#"), lines[i]
    assert len(values) == len(SETTINGS)


def test_render_prints_or_writes_and_runs_nothing(tmp_path: Path) -> None:
    job = build(tmp_path)
    (tmp_path / "slurm.yaml").write_text("{kind: slurm, workers: 2, gpus: 1}\n")
    args = ["run", str(job.config()), "--site", str(tmp_path / "slurm.yaml"), "--render"]
    printed = CliRunner().invoke(cli, args, catch_exceptions=False)
    assert "#SBATCH --array=0-1\n" in printed.stdout and "# ----- driver-site.yaml" in printed.stdout
    assert not (tmp_path / "out.zarr.jobs").exists()
    written = CliRunner().invoke(cli, [*args, str(tmp_path / "jobs"), "--json"], catch_exceptions=False)
    assert f"sbatch {tmp_path}/jobs/driver.sbatch" in json.loads(written.stdout)["do"]
    assert sorted(p.name for p in (tmp_path / "jobs").iterdir()) == ["driver-site.yaml", "driver.sbatch", "tls", "workers.sbatch"]
    assert not (tmp_path / "out.zarr").exists()
    with pytest.raises(UsageError, match="the site's kind is local"):
        CliRunner().invoke(cli, ["run", str(job.config()), "--render"], catch_exceptions=False)
