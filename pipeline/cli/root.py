"""The group of verbs, and what they share: how a document is said, how Ctrl-C is heard, how a configuration is read."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import click

from pipeline.errors import UsageError

EXIT_CODES = """\b
Exit codes: 0 ok · 1 bug · 2 usage · 3 invalid config or input · 4 finished with quarantined slabs
5 verification failed · 6 store locked by a live run · 7 environment not fit · 75 interrupted, resumable"""


class _Verbs(click.Group):
    """A group whose unknown verbs meet the nearest known one, and in which no argument is empty."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in self.commands:
            import difflib

            near = difflib.get_close_matches(args[0], self.commands, n=1)
            hint = f" Did you mean '{near[0]}'?" if near else f" Verbs: {', '.join(self.commands)}."
            raise click.UsageError(f"there is no verb '{args[0]}'.{hint}", ctx)
        _refuse_empty(args)
        return super().resolve_command(ctx, args)


def _refuse_empty(args: list[str]) -> None:
    """Raises UsageError for an empty argument: of a revert without its run an ordinary run would be made."""
    for before, text in zip(["", *args], args, strict=False):
        if text == "" or (text.startswith("--") and text.endswith("=")):
            name = text.rstrip("=") or (before if before.startswith("-") else "an argument")
            why, do = "perhaps it is a shell variable that is not set", "say what it is, or leave it out"
            raise UsageError(f"{name} is empty", why=why, do=do)


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


def both_or_neither(only: str | None, verdicts: str | None) -> None:
    """Raises UsageError where one of --only and --verdicts stands alone."""
    if bool(only) != bool(verdicts):
        raise UsageError(
            "--only and --verdicts go together",
            why="one says what to do with the verdicts, the other where they are",
            do="--only rejected (zmend run) or --only accepted (zmend merge), with --verdicts FILE",
        )


def config_of(path: str, site: str | None = None) -> Any:
    from pipeline.config import load

    return load(path, site)


def say(document: dict[str, Any], as_json: bool, show: Callable[[dict[str, Any]], None]) -> None:
    if as_json:
        click.echo(json.dumps(document, default=str))
    else:
        show(document)


class interrupts:
    """First Ctrl-C (or SIGTERM): finish what is in hand. Second: stop at once. From then on none is heard: an exception
    amid the stopping would leave threads behind, over which the process dies."""

    def __init__(self, stop: Any) -> None:
        self.stop, self.ending = stop, False

    def __enter__(self) -> None:
        import signal

        self.before = {s: signal.signal(s, self._handle) for s in (signal.SIGINT, signal.SIGTERM)}

    def __exit__(self, *_: object) -> None:
        import signal

        if not self.ending:  # else the process ends, and is deaf till then
            for number, handler in self.before.items():
                signal.signal(number, handler)

    def _handle(self, *_: object) -> None:
        if self.ending:
            return
        if self.stop.requested:
            self.ending = True
            _tell(f"\nstopping at once; should it hang, kill -9 {os.getpid()} does no harm")
            raise KeyboardInterrupt
        self.stop.requested = True
        _tell("\nstopping after the slabs in hand; once more to stop at once")


def _tell(text: str) -> None:
    """From a signal handler: the terminal may be gone, or just be written to."""
    with suppress(OSError, RuntimeError):
        click.echo(text, err=True)
