"""The pages of docs/: every block of commands runs, in order, on a phantom; every page is built, and no link is dead."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.cli import cli
from tests.jobs import ROOT, build

DOCS = ROOT / "docs"
PAGES = sorted(str(p.relative_to(DOCS)) for p in DOCS.rglob("*.md"))
BLOCK = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```', re.S | re.M)
RUN = [p for p in PAGES if "```sh" in (DOCS / p).read_text()]


@pytest.mark.parametrize("page", RUN)
def test_the_commands_of_a_page_run(page: str, tmp_path: Path) -> None:
    build(tmp_path)  # raw.zarr, mask.zarr and flags.csv
    search = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for _, title, body in BLOCK.findall((DOCS / page).read_text()):
        if title:  # the restorer that takes no minutes
            (tmp_path / title).write_text(body.replace("restorer: diffusion, weights: default", "restorer: linear"))
            continue
        for line in body.splitlines():
            done = subprocess.run(["bash", "-c", line], cwd=tmp_path, env={**os.environ, "PATH": search},
                                  capture_output=True, text=True, check=False, timeout=300)  # fmt: skip
            assert done.returncode == 0, f"{page}: {line}\n{done.stdout}{done.stderr}"


@pytest.mark.parametrize("page", PAGES)
def test_a_page_holds_no_block_that_nobody_runs(page: str) -> None:
    text = (DOCS / page).read_text()
    for language, title, body in BLOCK.findall(text):
        assert language == "sh" or title or "--8<--" in body, f"{page}: {body}"
    for verb in re.findall(r"zmend ([a-z]+) (?:zmend\.yaml|raw\.zarr|mended\.zarr|--)", text):
        assert verb in cli.commands


def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "-q", "--strict", "-d", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    command_page = (tmp_path / "site/reference/index.html").read_text()
    assert all(f'id="{verb}' in command_page or f"zmend {verb}" in command_page for verb in cli.commands)
    assert "missing_chunks" in (tmp_path / "site/configuration/index.html").read_text()
    loaded = re.findall(r'(?:src|href)="(https?://[^"]+)"', command_page)
    assert not [u for u in loaded if re.search(r"\.(js|css|woff2?)\b", u)], "nothing is loaded from elsewhere"
