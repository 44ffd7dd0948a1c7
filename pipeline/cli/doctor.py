"""zmend doctor: is this place fit for the work?"""

from __future__ import annotations

import click

from pipeline.cli.root import as_json, say


@click.command()
@click.argument("subject", metavar="[CONFIG|PATH]", required=False, default=".")
@click.option("--site", metavar="FILE", help="Check this site too: SLURM, partition, walltime, GPUs, network.")
@as_json
def doctor(subject: str, site: str | None, as_json: bool) -> None:
    """Check this machine, the file system that is written on, and the site; say what to change. Exit 7 if unfit.

    \b
    zmend doctor /data/project
    zmend doctor zmend.yaml --site slurm.yaml

    Packages, weights, GPUs and driver, atomic link and rename, fsync, free space; with a site its partition, walltime
    and memory, with a configuration against what a slab takes.
    """
    from pipeline import show
    from pipeline.doctor import examine

    found = examine(subject, site)
    say(found, as_json, show.findings)
    if not found["ok"]:
        raise SystemExit(7)
