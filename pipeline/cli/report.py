"""zmend report: a page to look at, of a mended store or of flags before they are spent on."""

from __future__ import annotations

import click

from pipeline.cli.root import as_json, say


@click.command()
@click.argument("place", metavar="STORE|VOLUME")
@click.option("--flags", metavar="FILE", help="Review these flags of VOLUME instead: accept and reject by picture.")
@click.option("--level", type=click.IntRange(0), default=0, show_default=True, help="Of VOLUME, that the flags are of.")
@click.option("--out", metavar="FILE", help="The page to write. Default: report.html, with --flags review.html.")
@as_json
def report(place: str, flags: str | None, level: int, out: str | None, as_json: bool) -> None:
    """Write one HTML file that shows what was mended, worst first, or what is flagged. It needs no network.

    \b
    zmend report mended.zarr --out report.html
    zmend report raw.zarr --flags flags.csv --out review.html

    Verdicts given on the page are saved from there: a CSV for zmend run and zmend merge, or the flags file again.
    """
    from pipeline import report as pages
    from pipeline import show

    if flags:
        found = pages.contact_sheet(flags, place, out or "review.html", level=level)
    else:
        found = pages.report(place, out or "report.html")
    say(found, as_json, show.pairs)
