"""What the documents say is what happens."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
import yaml

from pipeline.cli import cli
from pipeline.config import Config, check
from tests.jobs import ROOT, build, command

README = (ROOT / "README.md").read_text()


def test_readme_is_short_and_its_pictures_exist() -> None:
    assert len(README.splitlines()) <= 150
    pictures = re.findall(r"!\[[^]]*\]\(([^)]+)\)", README)
    assert pictures
    for picture in pictures:
        assert (ROOT / picture).is_file()


def test_every_verb_and_option_that_documents_name_exists() -> None:
    for name in ("README.md", "DESIGN.md", "deploy/README.md", "deploy/laptop.yaml"):
        for verb, rest in re.findall(r"zmend ([a-z]+)((?: [^`\n|&]*)?)", (ROOT / name).read_text()):
            if verb not in cli.commands:
                continue
            options = {o for p in cli.commands[verb].params for o in p.opts}
            for option in re.findall(r"(?<= )--[a-z-]+", rest):
                assert option in options or verb in ("train", "evaluate"), f"{name}: zmend {verb} {option}"
    assert {"plan", "run", "verify", "demo", "doctor"} <= set(re.findall(r"zmend ([a-z]+)", README))


def test_the_examples_of_configurations_are_valid() -> None:
    for text in re.findall(r"```yaml\n(.*?)```", README, re.S):
        assert isinstance(check(yaml.safe_load(text)), Config)
    assert isinstance(check(yaml.safe_load((ROOT / "deploy/laptop.yaml").read_text())), Config)


def test_the_commands_of_the_readme_run(tmp_path: Path) -> None:
    """The README's configuration, flags and commands, in order, on a phantom (with the fast restorer)."""
    build(tmp_path)
    (text,) = re.findall(r"```yaml\n(.*?)```", README, re.S)
    body = yaml.safe_load(text)
    body["recipe"]["restorer"], body["output"]["chunk_px"], body["site"]["slab_px"] = "linear", 128, 256
    (tmp_path / "zmend.yaml").write_text(yaml.safe_dump(body))
    (flags,) = re.findall(r"```csv\n(.*?)```", README, re.S)
    (tmp_path / "flags.csv").write_text(flags.replace("masks/crack.zarr", "mask.zarr"))
    commands = [line.split("#")[0] for line in README.splitlines() if re.match(r"zmend (plan|run|verify|status|report) [a-z]", line)]
    assert len(commands) >= 3
    for line in commands:
        process = command(*shlex.split(line)[1:], cwd=tmp_path)
        out, err = process.communicate(timeout=200)
        assert process.returncode == 0, f"{line}\n{out}{err}"


def test_the_json_of_run_and_verify_has_the_keys_that_the_readme_shows(tmp_path: Path) -> None:
    job = build(tmp_path)
    for verb, args in (("run", [str(job.config())]), ("verify", ["out.zarr"])):
        (shown,) = re.findall(rf"`zmend {verb} … --json` .*?`(\{{.*?\}})`", README, re.S)
        process = command(verb, *args, "--json", cwd=tmp_path)
        document = json.loads(process.communicate(timeout=120)[0])
        assert set(re.findall(r'"(\w+)":', shown)) <= set(document)


def test_a_first_night_by_the_readme_succeeds(tmp_path: Path) -> None:
    """After the README's run by flags that were written by hand: each line in its order, with the flags that it names."""
    build(tmp_path)
    (text,) = re.findall(r"```yaml\n(.*?)```", README, re.S)
    body = {**yaml.safe_load(text), "recipe": {"restorer": "linear"}, "certificate": 0}
    (tmp_path / "flags.csv").write_text("3\n")
    lines = [line for line in README.splitlines() if line.startswith(("zmend scan raw.zarr", "zmend nightly zmend.yaml"))]
    assert len(lines) == 2
    for line in lines:
        asked, comment = line.split("#", 1)
        said = re.search(r"^ with {2}flags: (\S+)", comment)
        (tmp_path / "zmend.yaml").write_text(yaml.safe_dump({**body, "flags": said.group(1) if said else "flags.csv"}))
        process = command(*shlex.split(asked)[1:], cwd=tmp_path)
        out, err = process.communicate(timeout=200)
        assert process.returncode == 0, f"{line}\n{out}{err}"


@pytest.mark.parametrize("name", ["README.md", "DESIGN.md", "CHANGELOG.md", "deploy/README.md"])
def test_documents_name_files_that_exist(name: str) -> None:
    for path in re.findall(r"`((?:pipeline|model|tests|deploy|benchmarks|docs)/[\w./-]+\.\w+)`", (ROOT / name).read_text()):
        assert (ROOT / path).exists(), f"{name} names {path}"
