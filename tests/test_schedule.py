"""What `zmend nightly --render` prints: lines that cron and scrontab take, a script that is good shell."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest
from click.testing import CliRunner

from pipeline.batch import DRIVER_CORES
from pipeline.cli import cli
from pipeline.errors import UsageError
from pipeline.schedule import AT, Kind, render
from pipeline.site import Site
from tests.jobs import ROOT

SLURM = Site.model_validate({
    "kind": "slurm", "partition": "gpu", "driver_partition": "cpu", "account": "em", "qos": "long", "walltime": "08:00:00",
    "setup": ["module load cuda"], "name": "zmend-1",
})  # fmt: skip
CONFIG = Path("/data/my stack/100%/zmend.yaml")
DIGEST = sha256(str(CONFIG).encode()).hexdigest()[:8]


def text(kind: Kind, site: Site = SLURM, at: str = "") -> str:
    return render(kind, site, CONFIG, CONFIG.with_suffix(".nightly"), ["--site", "/data/slurm.yaml", "--json"], at=at)


def line_of(text: str) -> str:
    (line,) = [line for line in text.splitlines() if line and not line.startswith("#")]
    return line


@pytest.mark.parametrize("kind", ["cron", "scrontab"])
def test_a_crontab_line_is_one_command_of_the_shell(kind: Kind) -> None:
    line = line_of(text(kind))
    assert line.startswith("0 2 * * * ")
    assert "%" not in line.replace(r"\%", ""), "a bare one would cut the line"
    command = line.removeprefix("0 2 * * * ").replace(r"\%", "%")  # as cron hands it to the shell
    words = shlex.split(command)
    assert words[:3] == ["cd", str(CONFIG.parent), "&&"]
    assert words[words.index("nightly") :][:4] == ["nightly", str(CONFIG), "--site", "/data/slurm.yaml"]
    assert (">>/data/my stack/100%/zmend.nightly/cron.log" in words) == (kind == "cron")


def test_a_pipeline_of_the_project_is_not_taken_for_ours(tmp_path: Path) -> None:
    for name in ("pipeline", "dask", "click"):
        (tmp_path / f"{name}.py").write_text('print("not ours")')
    folder = tmp_path / "zmend.nightly"
    folder.mkdir()
    line = line_of(render("cron", SLURM, tmp_path / "zmend.yaml", folder, ["--json"])).removeprefix("0 2 * * * ")
    done = subprocess.run(["sh", "-c", line.replace(r"\%", "%")], env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False)
    assert done.returncode == 3, (folder / "cron.log").read_text()
    assert "the configuration cannot be read" in (folder / "cron.log").read_text()


def test_what_slurm_is_asked_for_is_what_the_site_says() -> None:
    wanted = (f"--job-name=zmend-1-{DIGEST}-nightly", "--partition=cpu", "--account=em", "--qos=long", f"--cpus-per-task={DRIVER_CORES}", "--time=08:00:00")
    for kind, word in (("scrontab", "#SCRON"), ("sbatch", "#SBATCH")):
        assert all(f"{word} {option}\n" in text(kind) for option in wanted)  # type: ignore[arg-type]
    assert "module load cuda\n" in text("sbatch")
    assert "--cpus-per-task=6\n" in text("sbatch", Site.model_validate({"workers": 3, "threads": 2}))


def test_nights_of_two_projects_are_jobs_of_two_names() -> None:
    texts = [render("sbatch", SLURM, Path(f"/{p}/zmend.yaml"), Path(f"/{p}/zmend.nightly"), []) for p in ("a", "b")]
    names = [[line for line in text.splitlines() if "--job-name=" in line] for text in texts]
    assert len(names[0]) == 1 and names[0] != names[1]


@pytest.mark.parametrize("site", [SLURM, Site.model_validate({"workers": 2})], ids=["slurm", "local"])
def test_the_job_is_good_shell(site: Site, tmp_path: Path) -> None:
    (tmp_path / "nightly.sbatch").write_text(text("sbatch", site))
    tool = Path(sys.executable).with_name("shellcheck")
    for command in (["bash", "-n"], [str(tool), "--severity=style"]):
        done = subprocess.run([*command, str(tmp_path / "nightly.sbatch")], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(("kind", "at"), [("cron", "02:00"), ("scrontab", "now+1day"), ("sbatch", "0 2 * * *")])
def test_a_time_of_the_other_kind_is_refused(kind: Kind, at: str) -> None:
    with pytest.raises(UsageError, match=f"is no time for {kind}") as caught:
        text(kind, at=at)
    assert AT[kind] in caught.value.do
    assert "@hourly cd" in text("cron", at="@hourly")


def test_the_command_prints_it_and_does_nothing(tmp_path: Path) -> None:
    (tmp_path / "zmend.yaml").write_text("{volume: {path: raw.zarr}, flags: flags.csv, output: {path: out.zarr}}")
    args = ["nightly", str(tmp_path / "zmend.yaml"), "--no-scan", "--verify", "none", "--render", "cron"]
    printed = CliRunner().invoke(cli, args, catch_exceptions=False).stdout
    assert line_of(printed).endswith(f" --no-scan --verify none --json >>{tmp_path}/zmend.nightly/cron.log 2>&1")
    assert [p.name for p in tmp_path.iterdir() if p.name != "zmend.yaml"] == ["zmend.nightly"], "the log's folder alone"
