"""Shell completion: a real bash that completes verbs, options, values and files through the script that it is given."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from pipeline.cli import cli
from tests.jobs import ROOT

ASK = """
PATH="$PWD:$PATH"
source <(zmend completion bash)
COMP_WORDS=({words}); COMP_CWORD={at}
$(complete -p zmend | sed 's/.*-F \\([^ ]*\\).*/\\1/') zmend
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with `zmend` in it, and a file to complete."""
    script = tmp_path / "zmend"
    script.write_text(f"#!{sys.executable}\nfrom pipeline.cli import main\nmain()\n")
    script.chmod(0o755)
    (tmp_path / "mended.zarr").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["sta"], ["status"]),
        (["ver"], ["verify"]),
        (["status", "--wa"], ["--watch"]),
        (["run", "--only", '""'], ["rejected"]),
        (["verify", "--level", "str"], ["structure"]),
        (["schema", "re"], ["report"]),
        (["completion", "b"], ["bash"]),
    ],
    ids=" ".join,
)  # fmt: skip
def test_bash_completes(words: list[str], answer: list[str], folder: Path) -> None:
    assert bash(words, folder) == answer


def test_files_are_left_to_the_shell(folder: Path) -> None:
    asked = {**environment(folder), "COMP_WORDS": "zmend status mend", "COMP_CWORD": "2", "_ZMEND_COMPLETE": "bash_complete"}
    told = subprocess.run([str(folder / "zmend")], env=asked, capture_output=True, text=True, check=True, cwd=folder).stdout
    assert told.strip() == "file,mend", "the shell is told to complete files by itself"


def bash(words: list[str], folder: Path) -> list[str]:
    script = ASK.format(words=" ".join(["zmend", *words]), at=len(words))
    done = subprocess.run(["bash", "-c", script], cwd=folder, env=environment(folder), capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def environment(folder: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


@pytest.mark.parametrize(("shell", "words"), [("zsh", "#compdef zmend"), ("fish", "complete --no-files --command zmend")])
def test_other_shells_have_a_script(shell: str, words: str) -> None:
    assert words in CliRunner().invoke(cli, ["completion", shell]).stdout
