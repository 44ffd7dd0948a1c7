"""zmend demo: the whole tool on a small phantom."""

from __future__ import annotations

import click

from pipeline.cli.root import as_json, say
from pipeline.errors import VerifyError


@click.command()
@click.option("--out", default="demo-out", show_default=True, help="Folder for the volumes and the picture.")
@click.option("--restorer", default="diffusion", show_default=True, help="diffusion, linear or nearest.")
@as_json
def demo(out: str, restorer: str, as_json: bool) -> None:
    """Damage a small phantom, mend it, verify it, and compare with the truth that is known.

    \b
    zmend demo --out demo-out
    """
    from pipeline import show
    from pipeline.demo import demo as run_demo

    with show.Progress(quiet=as_json) as progress:
        found = run_demo(out, restorer=restorer, on_event=progress)
    say(found, as_json, show.demo)
    if not found["verified"]:
        raise VerifyError(
            "the demo's own store does not verify", where=out, do="please report this, with the output of zmend doctor"
        )
