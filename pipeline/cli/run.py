"""zmend run: restore, merge, record; or render the jobs that would."""

from __future__ import annotations

from typing import Any

import click

from pipeline.cli.plan import planned
from pipeline.cli.root import as_json, both_or_neither, config_of, interrupts, say
from pipeline.errors import UsageError


@click.command()
@click.argument("config")
@click.option("--plan", "reviewed", help="Refuse to run unless this reviewed plan file still holds.")
@click.option("--redo", multiple=True, metavar="SLAB", help="Do this finished slab again (its id, or how it begins).")
@click.option(
    "--certificate",
    type=click.IntRange(0, 64),
    help="Intact sections that the run is measured on, 0 for none. Default: the configuration's.",
)
@click.option(
    "--only",
    type=click.Choice(["rejected"]),
    help="Of what is done, make again only what --verdicts reject, with other seeds; what is not done yet is done too.",
)
@click.option("--verdicts", metavar="FILE", help="A reviewer's verdicts, as the report exports them (CSV).")
@click.option("--revert", metavar="RUN", help="Bring back, byte for byte, what was there before this run.")
@click.option("--slab", multiple=True, metavar="SLAB", help="With --revert: of this slab only.")
@click.option("--sign", metavar="FILE", help="Sign the outcome with this private key (Ed25519, PEM).")
@click.option("-n", "--dry-run", is_flag=True, help="Say what would be done, also by --revert; do nothing.")
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
    only: str | None,
    verdicts: str | None,
    revert: str | None,
    slab: tuple[str, ...],
    sign: str | None,
    dry_run: bool,
    site: str | None,
    render: str | None,
    as_json: bool,
) -> None:
    """Restore what is flagged, merge, and record it. The same command resumes, and redoes only what changed.

    \b
    zmend run zmend.yaml
    zmend run zmend.yaml --plan zmend.plan.json
    zmend run zmend.yaml --only rejected --verdicts verdicts.csv
    zmend run mended.zarr --revert 20261122T124505-2f1a14
    zmend run zmend.yaml --site slurm.yaml
    zmend run zmend.yaml --site slurm.yaml --render jobs

    Ctrl-C finishes the slabs in hand and stops (exit 75); a second Ctrl-C stops at once. Either can be resumed.
    """
    both_or_neither(only, verdicts)
    if revert is not None or slab:
        others = {"--plan": reviewed, "--redo": redo, "--certificate": certificate, "--only": only, "--sign": sign,
                  "--site": site, "--render": render}  # fmt: skip
        given = [name for name, value in others.items() if value not in (None, ())]
        _revert(config, revert, slab, given, dry_run, as_json)
        return
    asked = config_of(config, site)
    if render is not None:
        from pipeline.show import scripts

        say(_render(asked.site, config, render), as_json, scripts)
        return
    made = _proposed(asked, certificate, reviewed, config)
    judged = _read_verdicts(verdicts, made) if verdicts else None
    if dry_run:
        _foretell(made, judged, as_json)
        return
    _run(made, as_json, redo=redo, verdicts=judged, sign=sign or "")


def _proposed(asked: Any, certificate: int | None, reviewed: str | None, config: str) -> Any:
    """What is to be done. Raises PlanChangedError where that is not what was reviewed."""
    from pipeline.job import changes, propose
    from pipeline.planfile import read_plan

    made = propose(asked if certificate is None else asked.model_copy(update={"certificate": certificate}))
    if reviewed and (before := read_plan(reviewed)).hash != made.plan.hash:
        from pipeline.errors import PlanChangedError

        raise PlanChangedError(
            "the plan no longer holds",
            where=reviewed,
            why="changed since: " + ", ".join(changes(before, made.plan)),
            do=f"review it anew: zmend plan {config}",
        )
    return made


def _foretell(made: Any, judged: Any, as_json: bool) -> None:
    """What a run would do."""
    from pipeline import show

    if judged is None:
        say(planned(made, ""), as_json, show.plan)
        return
    from pipeline.takeover import would_order

    say(would_order(made, judged), as_json, show.ordered)


def _run(made: Any, as_json: bool, **asked: Any) -> None:
    """Do it, and say how it ended. Exits with 4 where slabs are quarantined."""
    from pipeline import show
    from pipeline.run import Stop, run

    stop = Stop()
    with interrupts(stop), show.Progress(quiet=as_json) as progress:
        summary = run(made, on_event=progress, stop=stop, **asked)
    say(summary, as_json, show.summary)
    if summary["quarantined"]:
        raise SystemExit(4)


def _read_verdicts(path: str, proposal: Any) -> Any:
    from pipeline.verdicts import read

    return read(path, proposal.plan.slabs)


def _revert(
    config: str, run: str | None, slabs: tuple[str, ...], others: list[str], dry_run: bool, as_json: bool
) -> None:
    """Of a configuration's output, or of a store that is named itself. others: options that are given beside it."""
    from pipeline import show
    from pipeline.revert import revert, would_revert
    from pipeline.store import is_store

    if run is None:
        raise UsageError(
            "--slab goes with --revert", do="--redo SLAB makes a slab anew; --revert RUN --slab SLAB brings it back"
        )
    if others:
        raise UsageError(
            f"{', '.join(others)} {'does' if len(others) == 1 else 'do'} not go with --revert",
            why="a revert restores nothing: it brings back what was there, from the store itself",
            do="revert first, with --slab, --dry-run and --json alone; then run",
        )
    asked = None if is_store(config) else config_of(config).output
    out = config if asked is None else asked.path
    if dry_run:
        say(would_revert(out, run, slabs=slabs), as_json, show.pairs)
        return
    clone: Any = "auto" if asked is None else asked.clone
    with show.Progress(quiet=as_json) as progress:
        found = revert(out, run, slabs=slabs, clone=clone, on_event=progress)
    say(found, as_json, show.pairs)


def _render(site: Any, config: str, into: str) -> dict[str, str]:
    """Batch scripts, by name; written where a folder is named, with the certificates that they use."""
    from pathlib import Path

    from pipeline.batch import render
    from pipeline.cluster import DASK_YAML, make_certificates
    from pipeline.lanes import LANES

    folder = Path(into if into != "-" else site.folder or ".").resolve()
    texts = render(site, Path(config).resolve(), folder, lanes=LANES, dask_yaml=DASK_YAML)
    if into == "-":
        return texts
    make_certificates(folder / "tls")
    for name, text in texts.items():
        (folder / name).write_text(text)
    return {"folder": str(folder), "do": f"sbatch {folder}/driver.sbatch && sbatch {folder}/workers.sbatch"}
