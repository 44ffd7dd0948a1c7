"""The command `zmend`. Only this module talks to people; everything heavy is imported inside a command."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import click

from pipeline.errors import InputError, Interrupted, UnfitError, UsageError, VerifyError, ZmendError

EXIT_CODES = """\b
Exit codes: 0 ok · 1 bug · 2 usage · 3 invalid config or input · 4 finished with quarantined slabs
5 verification failed · 6 store locked by a live run · 7 environment not fit · 75 interrupted, resumable"""


class _Verbs(click.Group):
    """A group whose unknown verbs meet the nearest known one."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in self.commands:
            import difflib

            near = difflib.get_close_matches(args[0], self.commands, n=1)
            hint = f" Did you mean '{near[0]}'?" if near else f" Verbs: {', '.join(self.commands)}."
            raise click.UsageError(f"there is no verb '{args[0]}'.{hint}", ctx)
        return super().resolve_command(ctx, args)


@click.group(
    cls=_Verbs, epilog=EXIT_CODES, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}
)
@click.option("-v", "verbose", count=True, help="-vv shows tracebacks.")
@click.version_option(package_name="zmend", message="zmend %(version)s")
@click.pass_context
def cli(ctx: click.Context, verbose: int) -> None:
    """Mend serial-section EM volumes: restore missing and damaged sections, with a record of every synthetic voxel.

    \b
    zmend demo                     see it work, on a small phantom
    zmend plan zmend.yaml          what would be done, and what it costs
    zmend run zmend.yaml           do it; run again to resume, or to do only what changed
    zmend verify mended.zarr       prove it
    """
    ctx.obj = verbose


as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout and nothing else.")


@cli.command()
@click.argument("config", required=False)
@click.option("--out", help="Where to write the plan file. Default: CONFIG with .plan.json for .yaml.")
@click.option("--shape", help="Plan on paper: Z,Y,X of a volume that need not exist.")
@click.option(
    "--flagged",
    type=click.FloatRange(0, 1),
    default=0.02,
    show_default=True,
    help="Share of sections that are flagged, on paper.",
)
@click.option(
    "--slab", type=click.IntRange(min=256), default=8192, show_default=True, help="Lateral slab edge, px, on paper."
)
@click.option(
    "--pace",
    type=click.FloatRange(min=0, min_open=True),
    default=60.0,
    show_default=True,
    help="Mpx restored a second by one GPU, on paper.",
)
@click.option("--site", metavar="FILE", help="Plan for this site instead of the configuration's (deploy/site-*.yaml).")
@as_json
def plan(
    config: str | None, out: str | None, shape: str | None, flagged: float, slab: int, pace: float, site: str | None,
    as_json: bool,
) -> None:
    """Say what would be done and what it would cost. Writes a plan file, nothing else.

    \b
    zmend plan zmend.yaml
    zmend plan --shape 25000,200000,200000 --flagged 0.02
    \b
    zmend.yaml:
      volume: {path: raw.zarr, level: 0}
      flags: flags.csv
      output: {path: mended.zarr, mode: volume}
      recipe: {restorer: diffusion, weights: default, steps: 4, seed: 7}
      site: {kind: local, workers: 2}
    """
    if (config is None) == (shape is None):
        raise UsageError("give a configuration or --shape, one of the two", do="zmend plan zmend.yaml")
    from pipeline import show

    if shape is not None:
        from pipeline.paper import paper_plan

        found = paper_plan(_shape(shape), flagged, slab, pace)
        _say(found, as_json, show.paper)
        return
    assert config is not None
    from pathlib import Path

    from pipeline.job import dump, propose

    made = propose(_config(config, site))
    target = Path(out or Path(config).with_suffix(".plan.json"))
    if target.exists() and '"zmend-plan/' not in target.read_text(errors="replace")[:4096]:
        raise UsageError(f"{target} is there and is no plan", why="it would be lost", do="name another file with --out")
    target.write_bytes(dump(made.plan))
    _say(_planned(made, str(target)), as_json, show.plan)


@cli.command()
@click.argument("volume")
@click.option("--out", default="flags.csv", show_default=True, help="The flags file to write.")
@click.option("--masks", help="Zarr array of the masks to write. Default: OUT with .masks.zarr for .csv.")
@click.option("--level", type=click.IntRange(0), help="Level of the pyramid to look at. Default: one of about 8 nm.")
@click.option("--sensitivity", default="medium", show_default=True, help="low, medium, high, or a number (1: medium).")
@click.option("--workers", type=click.IntRange(0), default=0, show_default=True, help="Processes; 0 is this one.")
@click.option("--site", metavar="FILE", help="Look on this site instead (deploy/site-*.yaml).")
@as_json
def scan(
    volume: str, out: str, masks: str | None, level: int | None, sensitivity: str, workers: int, site: str | None,
    as_json: bool,
) -> None:
    """Find missing and damaged sections by themselves. Writes a flags file to look through, and masks; nothing else.

    \b
    zmend scan raw.zarr --out flags.csv
    zmend scan raw.zarr --out flags.csv --sensitivity high --workers 8

    Each flag says what it is, how sure it is (a score, 1 is at the threshold) and why. Read it before you run.
    """
    from pipeline import show
    from pipeline.config import load_site
    from pipeline.run import Stop
    from pipeline.scan import scan as look
    from pipeline.site import Site

    where = load_site(site, out) if site else Site.model_validate({"workers": workers})
    options: dict[str, Any] = {"level": level, "sensitivity": sensitivity, "masks": masks, "site": where}
    stop = Stop()
    with _interrupts(stop), show.Progress(quiet=as_json) as progress:
        found = look(volume, out, tell=progress, stopped=lambda: stop.requested, **options)
    _say(found, as_json, show.scanned)


@cli.command()
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

    asked = _config(config, site)
    if render is not None:
        _say(_render(asked.site, config, render), as_json, show.scripts)
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
        _say(_planned(made, ""), as_json, show.plan)
        return
    from pipeline.run import Stop
    from pipeline.run import run as run_it

    stop = Stop()
    with _interrupts(stop), show.Progress(quiet=as_json) as progress:
        summary = run_it(made, on_event=progress, stop=stop, redo=redo)
    _say(summary, as_json, show.summary)
    if summary["quarantined"]:
        raise SystemExit(4)


@cli.command()
@click.argument("store")
@click.option(
    "--clone",
    type=click.Choice(["auto", "link", "copy"]),
    default="auto",
    show_default=True,
    help="How untouched chunks get there.",
)
@as_json
def merge(store: str, clone: str, as_json: bool) -> None:
    """Blend a store's overlay back into the full volume. For stores made with `output: {mode: overlay}`.

    \b
    zmend merge mended.zarr
    """
    from pipeline import show
    from pipeline.run import remerge

    with show.Progress(quiet=as_json) as progress:
        found = remerge(store, clone, progress)
    _say(found, as_json, show.pairs)


@cli.command()
@click.argument("store")
@as_json
def status(store: str, as_json: bool) -> None:
    """Say how far the run in a store has come.

    \b
    zmend status mended.zarr
    """
    from pipeline import show
    from pipeline.summary import status as look

    _say(look(store), as_json, show.status)


@cli.command()
@click.argument("store")
@click.option(
    "--replay",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Compute this many slabs anew and compare bit for bit.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Which slabs are drawn for the replay.")
@click.option(
    "--level",
    type=click.Choice(["structure", "digests", "identity", "lineage", "replay"]),
    default="lineage",
    show_default=True,
    help="How deep to look, each level with all before it. --replay N means replay.",
)
@click.option("--at", metavar="Z,Y,X", help="Tell the whole story of one voxel of the mended level instead.")
@as_json
def verify(store: str, replay: int, seed: int, level: Any, at: str | None, as_json: bool) -> None:
    """Prove that the store is what its records say, and that nothing outside the flags changed. Exit 5 if not.

    \b
    zmend verify mended.zarr
    zmend verify mended.zarr --replay 3
    zmend verify mended.zarr --at 812,4096,20480
    \b
    structure   documents, OME attributes, a record for every slab; reads no voxels
    digests     every chunk that was written still is what was written
    identity    outside the mask the merged volume is the source, voxel for voxel
    lineage     every synthetic voxel has one record, and its plan, weights and inputs still match
    replay      slabs drawn at random are computed anew, and come out the same
    """
    from pipeline import show

    if at is not None:
        _tell(store, at, as_json)
        return
    from pipeline.verify import verify as check

    found = check(store, level=level, replay=replay, seed=seed, on_check=(lambda _: None) if as_json else show.check)
    _say(found, as_json, show.verdict)
    if found["unfinished"]:
        raise VerifyError(
            f"too early to verify: {found['unfinished']}",
            where=store,
            why="it was interrupted, or it is still at work; what it has written so far is as its records say",
            do="run the same zmend run again: it goes on where it stopped; then verify",
        )
    if not found["ok"]:
        failed = [c["name"] for c in found["checks"] if not c["ok"]]
        raise VerifyError(
            f"verification failed: {', '.join(failed)}",
            where=store,
            do="do not use it; the same zmend run mends lost chunks, and with --redo SLAB it makes a slab anew",
        )


@cli.command()
@click.argument("store")
@click.option("--crate", metavar="DIR", help="Write an RO-Crate into this new folder; no voxels.")
@click.option("--prov", metavar="FILE", help="Write W3C PROV-JSON into this new file.")
@click.option("--run", "run_id", metavar="RUN", default="", help="Of this run of zmend/runs. Default: the last.")
@as_json
def export(store: str, crate: str | None, prov: str | None, run_id: str, as_json: bool) -> None:
    """Tell where a run's voxels come from, in the words of other tools: RO-Crate and W3C PROV.

    \b
    zmend export mended.zarr --crate crate
    zmend export mended.zarr --prov run.prov.json
    """
    from pipeline import show
    from pipeline.crate import write_crate
    from pipeline.prov import write_prov

    if (crate is None) == (prov is None):
        raise UsageError("give --crate or --prov, one of the two", do=f"zmend export {store} --crate crate")
    found = write_crate(store, crate, run_id) if crate is not None else write_prov(store, str(prov), run_id)
    _say(found, as_json, show.pairs)


def _tell(store: str, at: str, as_json: bool) -> None:
    """One voxel's story. Raises VerifyError where it does not fit together."""
    from pipeline import show
    from pipeline.story import story

    found = story(store, _voxel(at))
    _say(found, as_json, show.story)
    if not found["ok"]:
        raise VerifyError(
            f"voxel {at}: {found['doubts'][0]}", where=store, do="zmend verify names all that is wrong with the store"
        )


@cli.command()
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
    _say(found, as_json, show.demo)
    if not found["verified"]:
        raise VerifyError(
            "the demo's own store does not verify", where=out, do="please report this, with the output of zmend doctor"
        )


@cli.command()
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
    _say(found, as_json, show.findings)
    if not found["ok"]:
        raise SystemExit(7)


def _hand_over(verb: str, module: str, args: list[str]) -> int:
    """The exit code of a command of the other package."""
    import importlib

    try:
        main: Callable[[list[str]], int] = importlib.import_module(module).main  # by name: never imported here
    except ImportError as e:
        raise UnfitError(
            f"{module} cannot be imported", why=str(e), do="install torch: pip install torch==2.13.0"
        ) from e
    try:
        return main(args)
    except (ValueError, FloatingPointError) as e:
        raise InputError(f"{verb}: {e}", do=f"see zmend {verb} --help") from e
    except MemoryError as e:
        raise UnfitError(f"{verb}: {e or 'memory is used up'}", do="give a smaller --batch or --crop") from e


def _train_help(ctx: click.Context, _: click.Parameter, asked: bool) -> None:
    if asked and not ctx.resilient_parsing:
        click.echo(f"{ctx.get_help()}\n\nThe options of the training itself:\n")
        ctx.exit(_hand_over("train", "model.train", ["--help"]))


FROM_VOLUME = {
    "flags": "--flags", "level": "--level", "voxel_nm": "--voxel-size", "intensity": "--intensity",
    "megavoxels": "--megavoxels", "licence": "--licence",
}  # fmt: skip


@cli.command(context_settings={"ignore_unknown_options": True, "help_option_names": []})
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
        _hand_over("train", "model.train", ["--data", "", *options, "--check"])  # before minutes are spent on lessons
        data = _lessons(volume or "", asked)
    raise SystemExit(_hand_over("train", "model.train", ["--data", data, *options]))


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


@cli.command(
    context_settings={"ignore_unknown_options": True, "help_option_names": []},
    short_help="Measure a restorer against truth and baselines (zmend evaluate --help).",
)
@click.argument("args", nargs=-1, type=click.UNPROCESSED)
def evaluate(args: tuple[str, ...]) -> None:
    """Measure a restorer against truth and baselines (zmend evaluate --help).

    --ablate trains and compares variants of the network instead; --train-peers trains the learned baselines.
    """
    modules = {"--ablate": "model.ablation", "--train-peers": "model.peers"}
    asked = next((a for a in args if a in modules), "")
    rest = [a for a in args if a != asked]
    raise SystemExit(_hand_over("evaluate", modules.get(asked, "model.evaluate"), rest))


def _config(path: str, site: str | None = None) -> Any:
    from pipeline.config import load

    return load(path, site)


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


def _planned(made: Any, file: str) -> dict[str, Any]:
    """A proposal's plan, and what lies beside it, for people."""
    from pipeline.certificate import seconds
    from pipeline.restorer import Needs

    header, asked = made.plan.header, made.config
    extra = seconds(Needs(**header["restorer"]), asked.certificate, asked.recipe.uncertainty)
    return {"plan": made.plan.hash, "file": file, "certificate_seconds": round(extra), **header}


def _voxel(text: str) -> tuple[int, int, int]:
    try:
        z, y, x = (int(v) for v in text.split(","))
    except ValueError as e:
        raise UsageError(f"--at '{text}' is not three integers", do="for example --at 812,4096,20480") from e
    return z, y, x


def _shape(text: str) -> tuple[int, int, int]:
    try:
        z, y, x = (int(v) for v in text.split(","))
    except ValueError as e:
        raise UsageError(f"--shape '{text}' is not three integers", do="for example --shape 25000,200000,200000") from e
    if min(z, y, x) < 1:
        raise UsageError(f"--shape '{text}' has an empty axis", do="for example --shape 25000,200000,200000")
    return z, y, x


def _say(document: dict[str, Any], as_json: bool, show: Callable[[dict[str, Any]], None]) -> None:
    if as_json:
        click.echo(json.dumps(document, default=str))
    else:
        show(document)


class _interrupts:
    """First Ctrl-C (or SIGTERM): finish what is in hand. Second: stop at once."""

    def __init__(self, stop: Any) -> None:
        self.stop = stop

    def __enter__(self) -> None:
        import signal

        self.before = {s: signal.signal(s, self._handle) for s in (signal.SIGINT, signal.SIGTERM)}

    def __exit__(self, *_: object) -> None:
        import signal

        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _handle(self, *_: object) -> None:
        if self.stop.requested:
            raise KeyboardInterrupt
        self.stop.requested = True
        click.echo("\nstopping after the slabs in hand; once more to stop at once", err=True)


def main() -> None:
    """Entry point: turns every error into words on stderr and an exit code."""
    verbose = sum(a.count("v") for a in sys.argv[1:] if a.startswith("-v") and set(a[1:]) == {"v"})
    try:
        cli(standalone_mode=False)
    except ZmendError as e:
        _fail(str(e), e.exit_code, verbose)
    except click.exceptions.Abort:
        _fail("interrupted\n  do:    run the same command again to go on", Interrupted.exit_code, verbose)
    except KeyboardInterrupt:
        _fail("interrupted\n  do:    run the same command again to go on", Interrupted.exit_code, verbose)
    except click.ClickException as e:
        e.show()
        sys.exit(e.exit_code)
    except OSError as e:
        _fail(f"{type(e).__name__}: {e}\n  do:    {_system_remedy(e)}", UnfitError.exit_code, verbose)
    except Exception as e:
        _fail(
            f"{type(e).__name__}: {e}\n  why:   this is a bug in zmend\n  do:    report what -vv prints",
            1,
            verbose,
        )


def _system_remedy(error: OSError) -> str:
    """What to do about a refusal of the disk or the network."""
    import errno

    told = {
        errno.ENOSPC: "free some space and run the same command again: what is finished is kept",
        errno.EDQUOT: "your quota is used up: free some space and run the same command again",
        errno.EROFS: "the file system is read-only: name an output elsewhere",
        errno.EACCES: "you may not write or read there: check the rights, or name another path",
        errno.EMFILE: "too many open files: raise the limit (ulimit -n)",
    }
    return told.get(error.errno or 0, "check the disk and the network, then run the same command again; -vv tells more")


def _fail(text: str, code: int, verbose: int) -> None:
    if verbose >= 2:
        import traceback

        traceback.print_exc()
    click.echo(f"zmend: {text}", err=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
