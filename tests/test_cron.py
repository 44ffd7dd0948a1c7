"""A real cron, in a mount namespace of its own so that no other crontab is run, on a clock that is thirty times as fast."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from pipeline.errors import StoreLockedError
from pipeline.lock import StoreLock
from tests.jobs import ROOT
from tests.nights import DEPTHS, Nights

FAST = 30
START = f"""\
mount -t tmpfs tmpfs /var/spool/cron/crontabs && mount -t tmpfs tmpfs /etc/cron.d && mount -t tmpfs tmpfs /run &&
mount --bind /dev/null /etc/crontab && crontab "$1" && exec faketime -f '+0 x{FAST}' cron -f
"""


def missing() -> str:
    """What a cron of one's own needs, and is not there."""
    for tool in ("cron", "crontab", "faketime", "unshare"):
        if shutil.which(tool) is None:
            return f"{tool} is not installed"
    tried = subprocess.run(["unshare", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True, text=True, check=False)
    return tried.stderr.strip() if tried.returncode else ""


@contextmanager
def cron(crontab: Path) -> Iterator[None]:
    daemon = subprocess.Popen(["unshare", "--mount", "sh", "-c", START, "cron", str(crontab)], start_new_session=True)
    try:
        yield
        assert daemon.poll() is None, "cron has ended"
    finally:
        os.killpg(daemon.pid, signal.SIGKILL)
        daemon.wait(timeout=20)


@pytest.mark.skipif(bool(why := missing()), reason=f"no cron of our own: {why}")
def test_cron_keeps_a_volume_mended_that_grows(tmp_path: Path) -> None:
    """A call every two seconds: some meet a cycle that is at work, and do nothing. One cycle is killed."""
    nights = Nights(tmp_path)
    line = nights.render("cron", "--at", "* * * * *")
    crontab = tmp_path / "crontab"
    crontab.write_text(f"PYTHONPATH={ROOT}\n{line}")
    with cron(crontab):
        for depth in DEPTHS:
            if depth > nights.depth:
                nights.grow(depth)
            if depth == DEPTHS[1]:
                nights.kill()
            nights.mended()
        with ExitStack() as held:  # a cycle that finds nothing new may be over before the next call: one that lasts
            nights.until(lambda: taken(nights, held), "the lock is free")
            nights.until(lambda: "another cycle is at work" in nights.logs(), "two meet")
    nights.until(lambda: not called(nights), "the last one ends")
    nights.ends_as_one_go()


def taken(nights: Nights, held: ExitStack) -> bool:
    """Whether we hold the lock of a cycle from here on."""
    with suppress(StoreLockedError):
        held.enter_context(StoreLock(str(nights.pages), "lock"))
        return True
    return False


def called(nights: Nights) -> bool:
    """Whether a process of cron's is still there."""
    lines = (p.read_bytes() for p in Path("/proc").glob("[0-9]*/cmdline") if p.exists())
    return any(str(nights.config).encode() in line for line in lines)
