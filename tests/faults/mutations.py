"""Does a test notice? Each mutant of `mutants` is made in a copy of the repository, and its tests are run there.

    python -m tests.faults.mutations [--only lineage.py] [--out FILE] [--part 1/4]

What no test notices is a survivor: it wants a test, or is code that nobody needs. Takes about half a minute each.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from functools import cache
from pathlib import Path

import pytest

from tests.faults.mutants import MUTANTS, Mutant
from tests.jobs import ROOT

PATIENCE_S = 900.0
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["numpy", "zarr", "numcodecs", "pytest", "yaml", "pydantic", "pyarrow.parquet", "click", "rich.progress", "distributed", "obstore", "tensorstore"])


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
    for name in mutant.tests.split():
        if fault := passed_before(copy, name):
            return f"invalid: without a change, too, {fault}"
        path.write_text(whole.replace(mutant.was, mutant.now))
        try:
            if fault := failed(copy, name):
                return fault
        finally:
            path.write_text(whole)
    return "survived"


@cache
def passed_before(copy: Path, name: str) -> str:
    """What fails though nothing was changed; a test that always fails notices nothing."""
    return failed(copy, name)


def failed(copy: Path, name: str) -> str:
    """The first test of a file (or of several: a.py+b.py) that fails; nothing where none does."""
    told = copy / "told"
    process = FORKS.Process(target=_test, args=(copy, name, told))
    process.start()
    process.join(PATIENCE_S)
    if process.exitcode is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.join()
        return f"{name}: it hangs"
    said = told.read_text()
    found = [line for line in said.splitlines() if line.startswith(("FAILED", "ERROR"))]
    what = found[0].split(" - ")[0].partition(" ")[2] if found else f"{name}: {said[-200:]}"
    return what if process.exitcode else ""


def _test(copy: Path, name: str, told: Path) -> None:
    """Run a file's tests, in a process that was forked from one which has imported all that is not ours."""
    os.setsid()
    os.chdir(copy)
    handle = os.open(told, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    os.environ["PYTHONPATH"], os.environ["PYTHONDONTWRITEBYTECODE"] = str(copy), "1"
    sys.dont_write_bytecode = True
    sys.path[:] = [str(copy), *(p for p in sys.path if p not in ("", str(ROOT)))]
    for module in [m for m in sys.modules if m.split(".")[0] in ("pipeline", "tests", "model")]:
        del sys.modules[module]
    os._exit(int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-W", "ignore::pytest.PytestAssertRewriteWarning", *(f"tests/{n}" for n in name.split("+"))])))


def noticed(file: str | None) -> set[tuple[str, ...]]:
    """The mutants that some test noticed before: file, what it was, what it became."""
    lines = Path(file).read_text().splitlines() if file and Path(file).exists() else []
    found = (json.loads(line) for line in lines)
    return {(o["file"], o["was"], o["now"]) for o in found if "::" in o["result"]}


def main() -> int:
    words = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    words.add_argument("--only", default="", help="only mutants of files whose name has this in it")
    words.add_argument("--at", type=int, action="append", help="only the mutant of this number; may be given again")
    words.add_argument("--part", default="1/1", help="only every so manieth, so that several processes share them")
    words.add_argument("--out", metavar="FILE", help="a JSON line each; what was noticed there already is left out")
    asked = words.parse_args()
    part, parts = map(int, asked.part.split("/"))
    known, survived = noticed(asked.out), 0
    with tempfile.TemporaryDirectory(prefix="mutations-") as name:
        copy = copied(Path(name))
        for n, mutant in enumerate(MUTANTS):
            if asked.only not in mutant.file or (asked.at and n not in asked.at) or n % parts != part - 1 or mutant[:3] in known:
                continue
            began, result = time.monotonic(), tried(mutant, copy)
            survived += result in ("survived", "stale") or result.startswith("invalid")
            print(f"{n:3} {mutant.file:14} {time.monotonic() - began:4.0f} s  {result}", flush=True)
            if asked.out:
                with Path(asked.out).open("a") as file:
                    file.write(json.dumps({"n": n, **mutant._asdict(), "result": result}) + "\n")
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main())
