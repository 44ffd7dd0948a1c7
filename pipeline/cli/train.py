"""zmend train: weights for one's own tissue."""

from __future__ import annotations

from typing import Any

import click

from pipeline.cli.handover import hand_over
from pipeline.errors import UsageError


def _train_help(ctx: click.Context, _: click.Parameter, asked: bool) -> None:
    if asked and not ctx.resilient_parsing:
        click.echo(f"{ctx.get_help()}\n\nThe options of the training itself:\n")
        ctx.exit(hand_over("train", "model.train", ["--help"]))


FROM_VOLUME = {
    "flags": "--flags", "level": "--level", "voxel_nm": "--voxel-size", "intensity": "--intensity",
    "megavoxels": "--megavoxels", "licence": "--licence",
}  # fmt: skip  # fmt: skip


@click.command(context_settings={"ignore_unknown_options": True, "help_option_names": []})
@click.option("--data", help="Folder of npz files and manifest.json, to learn from stacks of your own.")
@click.option("--volume", help="A volume to learn from: any Zarr that zmend reads. Nothing has to be labelled.")
@click.option("--flags", help="Its flags: what they touch is not learnt from. Default: nothing is damaged.")
@click.option("--level", type=click.IntRange(0), help="Level of the volume's pyramid. Default: 0.")
@click.option(
    "--voxel-size", "voxel_nm", type=float, nargs=3, metavar="Z Y X", help="In nm; for volumes that do not say."
)
@click.option("--intensity", type=float, nargs=2, metavar="BLACK WHITE", help="As in the recipe of zmend run.")
@click.option(
    "--megavoxels",
    type=click.FloatRange(0, min_open=True),
    help="How much is taken from the volume, into STATE/lessons. Default: 256.",
)
@click.option("--licence", metavar="TEXT", help="Terms of your data; they go into the card of the weights.")
@click.option("--state", help="Folder of the lessons and of the resumable state.")
@click.option("--crop", type=click.IntRange(1), default=128, show_default=True, help="Pixels a side of a window.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of lessons and of training.")
@click.option("-h", "--help", is_flag=True, is_eager=True, expose_value=False, callback=_train_help)
@click.argument("args", nargs=-1, type=click.UNPROCESSED)
def train(args: tuple[str, ...], data: str | None, volume: str | None, **asked: Any) -> None:
    """Train a restorer on your own tissue; run again to continue, until it returns 0.

    \b
    zmend train --volume raw.zarr --flags flags.csv --state trained --minutes 60
    zmend train --volume raw.zarr --flags flags.csv --state trained --minutes 0 --export mine.safetensors
    zmend run zmend.yaml               with  recipe: {weights: mine.safetensors}
    \b
    zmend train --volume raw.zarr --flags flags.csv --state tuned --from default --steps 1000 --minutes 60
    \b
    zmend train --data stacks --state trained --steps 4000 --minutes 9
    zmend train --data trained/lessons --state trained      goes on without the volume
    \b
    stacks/manifest.json: {"mine": {"file": "mine.npz", "voxel_zyx_nm": [45, 4.6, 4.6], "licence": "..."}}
    stacks/mine.npz:      one array `raw`, uint8 (z, y, x)

    From a volume, the restorer learns from the sections that no flag and no absent chunk touches. With --from it
    goes on from weights that exist, which takes fewer steps than from scratch; their terms then bind yours.
    """
    if (data is None) == (volume is None):
        raise UsageError(
            "give --data or --volume, one of the two",
            why="training learns from stacks in a folder, or from the intact sections of a volume",
            do="zmend train --volume raw.zarr --flags flags.csv --state trained",
        )
    if data is not None and (idle := [option for key, option in FROM_VOLUME.items() if asked[key] is not None]):
        raise UsageError(f"{idle[0]} goes with --volume", do="leave it out: manifest.json in --data says such things")
    common = [(f"--{key}", str(asked[key])) for key in ("state", "crop", "seed") if asked[key] is not None]
    options = [*(word for pair in common for word in pair), *args]
    if data is None:
        hand_over("train", "model.train", ["--data", "", *options, "--check"])  # before minutes are spent on lessons
        data = _lessons(volume or "", asked)
    raise SystemExit(hand_over("train", "model.train", ["--data", data, *options]))


def _lessons(volume: str, asked: dict[str, Any]) -> str:
    """Take what is learnt from a volume, or find it taken; say so; return its folder."""
    from pathlib import Path

    from pipeline.lessons import Request, take

    if asked["state"] is None:
        raise UsageError("--volume needs --state", why="what is learnt is kept there", do="add  --state trained")
    settings = {key: value for key, value in asked.items() if value is not None and key != "state"}
    tenth = 0

    def report(event: dict[str, Any]) -> None:
        nonlocal tenth
        if (now := int(10 * event["megavoxels"] / event["of"])) > tenth:
            click.echo(f"lessons: {event['megavoxels']:.0f} of {event['of']:.0f} Mvoxels", err=True)
            tenth = now

    found = take(Request(volume, **settings), Path(asked["state"]), report)
    text = f"lessons: {found['boxes']} boxes of intact sections, {found['voxels'] / 1e6:.1f} Mvoxels"
    click.echo(f"{text}, {found['validation']} kept for validation: {found['folder']}", err=True)
    return str(found["folder"])
