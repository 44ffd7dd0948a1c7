"""Schedule: a line for cron or scrontab, or a job that puts itself into SLURM's queue again. Text alone.

What keeps two cycles apart is zmend's own lock, on any file system and from any host: no flock, no --dependency alone.
"""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from hashlib import sha256
from pathlib import Path
from typing import Literal

from pipeline.batch import DRIVER_CORES, pattern
from pipeline.errors import UsageError
from pipeline.site import Site

Kind = Literal["cron", "scrontab", "sbatch"]
TEMPLATES = Path(__file__).parents[1] / "deploy"
WHERE: dict[Kind, str] = {
    "cron": "cron/nightly.cron.j2",
    "scrontab": "slurm/nightly.scrontab.j2",
    "sbatch": "slurm/nightly.sbatch.j2",
}
AT: dict[Kind, str] = {"cron": "0 2 * * *", "scrontab": "0 2 * * *", "sbatch": "02:00"}


def render(kind: Kind, site: Site, config: Path, folder: Path, args: list[str], *, at: str = "") -> str:
    """The text. folder: where the log goes. args: what follows `zmend nightly CONFIG`.

    at: when, as the scheduler wants it: five fields for cron and scrontab, a time for sbatch --begin.
    Raises UsageError for a time of the other kind.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    at = at or AT[kind]
    _check(kind, at)
    jinja = Environment(
        loader=FileSystemLoader(TEMPLATES), undefined=StrictUndefined, trim_blocks=True, keep_trailing_newline=True
    )
    jinja.filters["quote"] = lambda value: shlex.quote(str(value))
    jinja.filters["pattern"] = pattern
    jinja.filters["percent"] = lambda text: text.replace("%", r"\%")  # in a crontab a bare % ends the line
    # -P: a pipeline.py that lies beside the configuration must not be taken for ours
    command = [sys.executable, "-P", "-m", "pipeline", "nightly", str(config), *args]
    return jinja.get_template(WHERE[kind]).render(
        site=site, at=at, name=_name(site, config), config=config, folder=folder, command=shlex.join(command),
        path=_path(), here=config.parent, cores=_cores(site),
    )  # fmt: skip


def _check(kind: Kind, at: str) -> None:
    fields = len(at.split())
    if kind == "sbatch" and fields > 1:
        why = "sbatch --begin takes 02:00, now+1hour, 2026-11-22T02:00"
        raise UsageError(f"--at '{at}' is no time for sbatch", why=why, do="--at 02:00")
    if kind != "sbatch" and fields != 5 and not at.startswith("@"):
        why = "minute, hour, day, month and weekday, or a word such as @hourly"
        raise UsageError(f"--at '{at}' is no time for {kind}", why=why, do="--at '0 2 * * *'")


def _name(site: Site, config: Path) -> str:
    """Of the job, by which SLURM keeps nights apart: no two projects share one, whatever their files are called."""
    stem = re.sub(r"[^\w.-]", "-", config.stem)
    return f"{site.name or f'zmend-{stem}'}-{sha256(str(config).encode()).hexdigest()[:8]}-nightly"


def _path() -> str:
    """cron knows /usr/bin:/bin alone: where SLURM's commands are here."""
    found = shutil.which("sbatch")
    places = [str(Path(found).parent)] if found else []
    return ":".join(dict.fromkeys([*places, "/usr/local/bin", "/usr/bin", "/bin"]))


def _cores(site: Site) -> int:
    """Of the job: with workers of its own it computes; where jobs are its workers, it drives them."""
    return DRIVER_CORES if site.kind in ("slurm", "scheduler") else max(1, site.workers) * (site.threads or 1)
