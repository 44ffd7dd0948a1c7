"""The real command in a process of its own, forked from one that has imported everything: a tenth of a second, not three."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

PRELOAD = ["pipeline.cli.entry", "pipeline.run", "pipeline.verify", "pipeline.show", "pyarrow.parquet", "pipeline.bucket", "tests.faults.toys", "tests.faults.power"]
_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload(["tests.faults.child", *PRELOAD])

Patches = Mapping[str, Any]  # what a name in a module is instead: {"pipeline.ledger.PACK_AT": 4}


def start(args: Sequence[str], said: Path, env: Mapping[str, str], patches: Patches, power: tuple[Path, int] | None = None) -> Any:
    """Begin `zmend ARGS`; what it says goes to a file. power: the folder and the seed of a power cut, instead of a kill."""
    process = _forks.Process(target=_zmend, args=(list(args), said, dict(env), dict(patches), power))
    process.start()
    return process


def _zmend(args: list[str], said: Path, env: dict[str, str], patches: dict[str, Any], power: tuple[Path, int] | None) -> None:
    os.setsid()
    os.environ.update(env)
    handle = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    for name, value in patches.items():
        module, _, attribute = name.rpartition(".")
        setattr(importlib.import_module(module), attribute, value() if isinstance(value, type) else value)
    if power is not None:
        _cut_instead_of_kill(*power)
    from pipeline.cli.entry import main

    sys.argv = ["zmend", *args]
    main()
    if power is not None:  # the power fails just after the command has ended
        os.kill(os.getpid(), 9)


def _cut_instead_of_kill(root: Path, seed: int) -> None:
    from tests.faults.power import Power

    power, kill = Power(root), os.kill
    power.watch()

    def cut(pid: int, number: int) -> None:
        if pid == os.getpid() and number == 9:
            power.leave(root.with_name("left"), seed)
        kill(pid, number)

    os.kill = cut
