"""zmend merge: an overlay back into the full volume."""

from __future__ import annotations

from typing import Any

import click

from pipeline.cli.root import as_json, both_or_neither, say


@click.command()
@click.argument("store")
@click.option(
    "--clone",
    type=click.Choice(["auto", "link", "copy"]),
    default="auto",
    show_default=True,
    help="How untouched chunks get there.",
)
@click.option("--anew", is_flag=True, help="Believe nothing of the merged volume: bring and write all of it again.")
@click.option("--only", type=click.Choice(["accepted"]), help="Leave all as it was that --verdicts do not accept.")
@click.option("--verdicts", metavar="FILE", help="A reviewer's verdicts, as the report exports them (CSV).")
@as_json
def merge(store: str, clone: Any, anew: bool, only: str | None, verdicts: str | None, as_json: bool) -> None:
    """Blend a store's overlay back into the full volume. For stores made with `output: {mode: overlay}`.

    \b
    zmend merge mended.zarr
    zmend merge mended.zarr --anew
    zmend merge mended.zarr --only accepted --verdicts verdicts.csv

    What is not accepted becomes label 4, left as it was; `zmend run mended.zarr --revert RUN` brings it back.
    """
    both_or_neither(only, verdicts)
    from pipeline import show
    from pipeline.remerge import remerge

    with show.Progress(quiet=as_json) as progress:
        found = remerge(store, clone, progress, accepted=verdicts or "", anew=anew)
    say(found, as_json, show.pairs)
