"""The command: cheap help, words for errors, exit codes, stable JSON."""

from __future__ import annotations

import json
import os
import pty
import re
import resource
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from pipeline.cli import cli
from pipeline.errors import UsageError

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "dask", "distributed", "zarr", "numpy", "rich", "pydantic", "yaml")


def zmend(*args: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    code = "from pipeline.cli import main; main()"
    return subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True, cwd=cwd or ROOT, timeout=120,
                          env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "COLUMNS": "200"}, check=False)  # fmt: skip


def test_help_imports_nothing_heavy() -> None:
    code = f"""
import sys
from click.testing import CliRunner
from pipeline.cli import cli
result = CliRunner().invoke(cli, ["--help"])
assert result.exit_code == 0 and "zmend verify mended.zarr" in result.output, result.output
print([m for m in {HEAVY} if m in sys.modules])
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert found.stdout.strip() == "[]"


def test_help_takes_less_than_a_third_of_a_second_of_cpu() -> None:
    def cpu() -> float:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime

    taken = []
    for _ in range(3):
        before = cpu()
        assert zmend("--help").returncode == 0
        taken.append(cpu() - before)
    assert min(taken) < 0.3


@pytest.mark.parametrize("verb", sorted(cli.commands.keys() - {"evaluate"}))
def test_help_of_each_verb_opens_with_examples_that_can_be_typed(verb: str) -> None:
    found = re.findall(rf"^ *zmend {verb}(?: (.*?))?(?:  .*)?$", cli.commands[verb].help or "", re.M)
    assert found, "help opens with an example"
    for line in found:
        args = shlex.split(re.split(r" (?:>>?|[|]) ", line)[0])
        with cli.commands[verb].make_context(verb, args):
            pass  # an option that does not exist, or a value that is refused, is an error


def test_help_of_evaluate_opens_with_an_example() -> None:
    assert "zmend evaluate --" in zmend("evaluate", "--help").stdout


@pytest.mark.parametrize(
    ("args", "words"),
    [(["plam"], "Did you mean 'plan'?"), (["run", "x.yaml", "--dry-rum"], "Did you mean '--dry-run'?"),
     (["verify", "x", "--level", "digest"], "digests"), (["schema", "pln"], "did you mean 'plan'?")],
    ids=["verb", "option", "choice", "schema"],
)  # fmt: skip
def test_what_was_probably_meant(args: list[str], words: str) -> None:
    found = zmend(*args)
    assert found.returncode == 2 and words in found.stderr


@pytest.mark.parametrize("no_color", ["", "1"])
def test_no_color_is_honoured_on_a_terminal(no_color: str, tmp_path: Path) -> None:
    """Of a terminal that can, in a verb that has something to warn of: colours, and none where NO_COLOR is set."""
    ours, theirs = pty.openpty()
    env = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm-256color", "NO_COLOR": no_color}
    code = "from pipeline import show; show.findings({'findings': [{'name': 'n', 'ok': False, 'detail': 'd', 'do': 'x'}]})"
    done = subprocess.run([sys.executable, "-c", code], stdout=theirs, env=env, check=True)
    os.close(theirs)
    seen = os.read(ours, 65536).decode()
    assert done.returncode == 0 and "FAIL" in seen
    assert ("\x1b[31m" in seen) == (no_color == "")


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (["plam", "x"], 2, "Did you mean 'plan'?"),
        (["frobnicate"], 2, "Verbs: plan, scan, run"),
        (["plan"], 2, "give a configuration or --shape"),
        (["plan", "--shape", "3,4"], 2, "is not three integers"),
        (["plan", "--shape", "0,4,4"], 2, "has an axis below 1"),
        (["plan", "--shape", "-5"], 2, "--shape '-5' is not three integers"),
        (["plan", "--shape", "9,-5,9"], 2, "has an axis below 1"),
        (["plan", "--shape", "9,9,9", "--rates", "."], 3, "no such file of rates"),
        (["run", "nowhere.yaml"], 3, "the configuration cannot be read"),
        (["verify", "nowhere.zarr"], 3, "nowhere.zarr"),
        (["status", "nowhere.zarr"], 3, "nowhere.zarr"),
        (["train", "--data", "/nowhere"], 3, "there is no /nowhere/manifest.json"),
        (["evaluate", "--data", "/nowhere", "--out", "/tmp/nowhere"], 3, "there is no /nowhere/manifest.json"),
        (["doctor", "/nowhere"], 7, "is not a folder"),
    ],
)
def test_errors_have_words_codes_and_no_traceback(args: list[str], code: int, words: str) -> None:
    found = zmend(*args)
    assert found.returncode == code, found.stderr
    assert words in found.stderr + found.stdout
    assert "Traceback" not in found.stderr + found.stdout


def test_vv_shows_the_traceback() -> None:
    assert "Traceback" in zmend("-vv", "run", "nowhere.yaml").stderr


def test_doctor_finds_this_machine_fit(tmp_path: Path) -> None:
    found = zmend("doctor", str(tmp_path), "--json")
    document = json.loads(found.stdout)
    names = {f["name"] for f in document["findings"]}
    assert {"zarr", "weights", "link if absent", "rename over", "free space"} <= names
    assert found.returncode == 0, document


def test_a_refusal_of_the_disk_has_words_and_ends_with_7(tmp_path: Path) -> None:
    (tmp_path / "folder.yaml").mkdir()
    code = "from pipeline import cli\nimport errno, sys\ndef full(*_): raise OSError(errno.ENOSPC, 'No space left on device', 'c/0/0/0')\ncli.run.config_of = full\ncli.main()"
    found = subprocess.run([sys.executable, "-c", code, "run", "x.yaml"], capture_output=True, text=True, cwd=ROOT, check=False)
    assert found.returncode == 7
    assert "No space left on device" in found.stderr
    assert "free some space and run the same command again" in found.stderr
    assert "Traceback" not in found.stderr


@pytest.mark.parametrize("part", ["--ablate", "--train-peers"])
def test_evaluate_has_parts_of_its_own(part: str) -> None:
    done = zmend("evaluate", part, "--help")
    assert done.returncode == 0 and done.stdout.startswith(f"usage: zmend evaluate {part}")


@pytest.mark.parametrize(
    ("args", "name"),
    [
        (["run", "mended.zarr", "--revert", ""], "--revert"),
        (["run", "zmend.yaml", "--redo="], "--redo"),
        (["run", "zmend.yaml", "--revert", "2026", "--slab", ""], "--slab"),
        (["run", ""], "an argument"),
        (["merge", "mended.zarr", "--only", "accepted", "--verdicts", ""], "--verdicts"),
        (["nightly", "zmend.yaml", "--site", ""], "--site"),
    ],
)
def test_an_empty_argument_is_not_one_that_was_left_out(args: list[str], name: str) -> None:
    """A shell variable that is not set: `--revert "$RUN"` would run the plan."""
    with pytest.raises(UsageError, match=f"^{name} is empty") as e:
        CliRunner().invoke(cli, args, catch_exceptions=False)
    assert e.value.exit_code == 2 and "shell variable" in e.value.why
