"""zmend run: restore, merge, record; or render the jobs that would."""

from __future__ import annotations

from typing import Any

import click

from pipeline.cli.plan import planned
from pipeline.cli.root import as_json, config_of, interrupts, say


@click.command()
@click.argument("config")
@click.option("--plan", "reviewed", help="Refuse to run unless this reviewed plan file still holds.")
@click.option("--redo", multiple=True, metavar="SLAB", help="Do this finished slab again (its id, or how it begins).")
@click.option(
    "--certificate",
    type=click.IntRange(0, 64),
    help="Intact sections that the run is measured on, 0 for none. Default: the configuration's.",
)
@click.option("-n", "--dry-run", is_flag=True, help="Say what would be done; do nothing.")
@click.option("--site", metavar="FILE", help="Run on this site instead of the configuration's (deploy/site-*.yaml).")
@click.option(
    "--render",
    is_flag=False,
    flag_value="-",
    metavar="[DIR]",
    help="Do not run: write sbatch scripts for the site into DIR, or print them.",
)
@as_json
def run(
    config: str,
    reviewed: str | None,
    redo: tuple[str, ...],
    certificate: int | None,
    dry_run: bool,
    site: str | None,
    render: str | None,
    as_json: bool,
) -> None:
    """Restore what is flagged, merge, and record it. The same command resumes, and redoes only what changed.

    \b
    zmend run zmend.yaml
    zmend run zmend.yaml --plan zmend.plan.json
    zmend run zmend.yaml --site slurm.yaml
    zmend run zmend.yaml --site slurm.yaml --render jobs

    Ctrl-C finishes the slabs in hand and stops (exit 75); a second Ctrl-C stops at once. Either can be resumed.
    """
    from pipeline import show
    from pipeline.job import changes, propose, read_plan

    asked = config_of(config, site)
    if render is not None:
        say(_render(asked.site, config, render), as_json, show.scripts)
        return
    made = propose(asked if certificate is None else asked.model_copy(update={"certificate": certificate}))
    if reviewed:
        before = read_plan(reviewed)
        if before.hash != made.plan.hash:
            from pipeline.errors import PlanChangedError

            raise PlanChangedError(
                "the plan no longer holds",
                where=reviewed,
                why="changed since: " + ", ".join(changes(before, made.plan)),
                do=f"review it anew: zmend plan {config}",
            )
    if dry_run:
        say(planned(made, ""), as_json, show.plan)
        return
    from pipeline.run import Stop
    from pipeline.run import run as run_it

    stop = Stop()
    with interrupts(stop), show.Progress(quiet=as_json) as progress:
        summary = run_it(made, on_event=progress, stop=stop, redo=redo)
    say(summary, as_json, show.summary)
    if summary["quarantined"]:
        raise SystemExit(4)


def _render(site: Any, config: str, into: str) -> dict[str, str]:
    """Batch scripts, by name; written where a folder is named, with the certificates that they use."""
    from pathlib import Path

    from pipeline.batch import render
    from pipeline.cluster import DASK_YAML, LANES, make_certificates

    folder = Path(into if into != "-" else site.folder or ".").resolve()
    texts = render(site, Path(config).resolve(), folder, lanes=LANES, dask_yaml=DASK_YAML)
    if into == "-":
        return texts
    make_certificates(folder / "tls")
    for name, text in texts.items():
        (folder / name).write_text(text)
    return {"folder": str(folder), "do": f"sbatch {folder}/driver.sbatch && sbatch {folder}/workers.sbatch"}
