"""Does a test notice? Each mutant of `mutants` is made in a copy of the repository, and its tests are run there.

    python -m tests.faults.mutations [--only lineage.py] [--out FILE]

What no test notices is a survivor: it wants a test, or is code that nobody needs. Takes about half a minute each.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.faults.mutants import MUTANTS, Mutant
from tests.jobs import ROOT

PATIENCE_S = 900.0


def copied(folder: Path) -> Path:
    """The repository's files, without what git does not keep."""
    names = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    for name in (n for n in names if (ROOT / n).is_file()):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / name)
    return folder


def tried(mutant: Mutant, copy: Path) -> str:
    """The test that noticed; "survived", or "stale" where the code is another by now."""
    path = copy / "pipeline" / mutant.file
    whole = path.read_text()
    if whole.count(mutant.was) != 1:
        return "stale"
    path.write_text(whole.replace(mutant.was, mutant.now))
    try:
        return noticed(copy, mutant.tests.split())
    finally:
        path.write_text(whole)


def noticed(copy: Path, files: list[str]) -> str:
    """Each file by itself, in order: most are noticed by the first."""
    env = {**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    for name in (n for n in files if (copy / "tests" / n).exists()):
        words = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", f"tests/{name}"]
        try:
            ended = subprocess.run(words, cwd=copy, env=env, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
        except subprocess.TimeoutExpired:
            return f"{name}: it hangs"
        if ended.returncode:
            failed = [line for line in ended.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
            return failed[0].split(" - ")[0].partition(" ")[2] if failed else f"{name}: {ended.stdout[-200:]}"
    return "survived"


def main() -> int:
    words = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    words.add_argument("--only", default="", help="only mutants of files whose name has this in it")
    words.add_argument("--at", type=int, action="append", help="only the mutant of this number; may be given again")
    words.add_argument("--out", metavar="FILE", help="a JSON line each")
    asked = words.parse_args()
    survived = 0
    with tempfile.TemporaryDirectory(prefix="mutations-") as name:
        copy = copied(Path(name))
        for n, mutant in enumerate(MUTANTS):
            if asked.only not in mutant.file or (asked.at and n not in asked.at):
                continue
            began, result = time.monotonic(), tried(mutant, copy)
            survived += result in ("survived", "stale")
            print(f"{n:3} {mutant.file:14} {time.monotonic() - began:4.0f} s  {result}", flush=True)
            if asked.out:
                with Path(asked.out).open("a") as file:
                    file.write(json.dumps({"n": n, **mutant._asdict(), "result": result}) + "\n")
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main())
