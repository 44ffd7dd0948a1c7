"""zmend nightly: a cycle over a volume that grows, or the line that has it done every night."""

from __future__ import annotations

from typing import Any

import click

from pipeline.cli.root import as_json, config_of, interrupts, say


@click.command()
@click.argument("config")
@click.option("--scan/--no-scan", "seek", default=True, help="Find damage in what is new; or keep to the flags.")
@click.option("--sensitivity", default="medium", show_default=True, help="Of the scan: low, medium, high, or a number.")
@click.option(
    "--verify",
    "level",
    type=click.Choice(["none", "structure", "digests", "identity", "lineage", "replay"]),
    default="lineage",
    show_default=True,
    help="How deep the store is verified when it has changed; see zmend verify.",
)
@click.option(
    "--verify-every",
    "every",
    type=click.IntRange(0),
    default=30,
    show_default=True,
    help="Cycles after which all is verified though nothing that is recorded has changed: bits rot. 0: never.",
)
@click.option("--site", metavar="FILE", help="Work on this site instead of the configuration's (deploy/site-*.yaml).")
@click.option(
    "--render",
    type=click.Choice(["cron", "scrontab", "sbatch"]),
    help="Do nothing now: print a line for crontab or scrontab, or a job that submits itself again.",
)
@click.option("--at", default="", metavar="WHEN", help="With --render. Default: '0 2 * * *'; for sbatch 02:00.")
@as_json
def nightly(
    config: str,
    seek: bool,
    sensitivity: str,
    level: str,
    every: int,
    site: str | None,
    render: str | None,
    at: str,
    as_json: bool,
) -> None:
    """Scan what is new, plan, run, verify, and write a page about it. Made to be called every night.

    \b
    zmend nightly zmend.yaml
    zmend nightly zmend.yaml --site slurm.yaml --render cron
    zmend nightly zmend.yaml --render sbatch --at 02:00 | sbatch

    Only what is new or has changed is looked at and restored; `flags:` in the configuration is the file that the
    scan writes, and what you change in it stays. Two cycles keep each other out (exit 6); the next goes on with one
    that was killed. Pages lie in CONFIG.nightly/.
    """
    from pathlib import Path

    asked, path = config_of(config, site), Path(config).resolve()
    folder = path.with_suffix(".nightly")
    if render is not None:
        _print(render, asked.site, path, folder, _args(seek, sensitivity, level, every, site), at, as_json)
        return
    from pipeline import show
    from pipeline.errors import VerifyError
    from pipeline.nightly import Nightly
    from pipeline.run import Stop

    stop, wanted = Stop(), None if level == "none" else level
    with interrupts(stop), show.Progress(quiet=as_json) as progress:
        told = Nightly(asked, folder, seek, sensitivity, wanted, progress, every).cycle(stop)  # type: ignore[arg-type]
    say(told, as_json, show.night)
    if not told.get("verify", {}).get("ok", True):
        raise VerifyError("verification failed", where=told["output"], do=f"read {told['page']}")
    if told["run"]["quarantined"]:
        raise SystemExit(4)


def _print(kind: Any, site: Any, config: Any, folder: Any, args: list[str], at: str, as_json: bool) -> None:
    from pipeline.schedule import render

    text = render(kind, site, config, folder, args, at=at)
    folder.mkdir(exist_ok=True)  # cron and SLURM write their logs there, and make no folders
    say({"render": kind, "text": text}, as_json, lambda document: click.echo(document["text"], nl=False))


def _args(seek: bool, sensitivity: str, level: str, every: int, site: str | None) -> list[str]:
    """The options of the cycle that is rendered: those that are not as they are by default, paths whole."""
    from pathlib import Path

    found = [] if seek else ["--no-scan"]
    found += [] if sensitivity == "medium" else ["--sensitivity", sensitivity]
    found += [] if level == "lineage" else ["--verify", level]
    found += [] if every == 30 else ["--verify-every", str(every)]
    found += ["--site", str(Path(site).resolve())] if site else []
    return [*found, "--json"]
