"""The entry point: every error becomes words on stderr and an exit code."""

from __future__ import annotations

import signal
import sys
from types import TracebackType

import click

from pipeline.cli.root import cli
from pipeline.errors import Interrupted, UnfitError, ZmendError


def main() -> None:
    """Entry point: turns every error into words on stderr and an exit code."""
    verbose = sum(a.count("v") for a in sys.argv[1:] if a.startswith("-v") and set(a[1:]) == {"v"})
    try:
        with _Signals():
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
        _fail(_system_words(e), UnfitError.exit_code, verbose)
    except MemoryError as e:
        do = "make slabs smaller (site.slab_px) or take fewer workers, and run again: what is finished is kept"
        why = str(e) or "this process may not take more"
        _fail(f"memory ran out\n  why:   {why}\n  do:    {do}", UnfitError.exit_code, verbose)
    except Exception as e:
        _fail(
            f"{type(e).__name__}: {e}\n  why:   this is a bug in zmend\n  do:    report what -vv prints",
            1,
            verbose,
        )


class _Signals:
    """SIGTERM unwinds what is under way, as Ctrl-C does: else scratch files and workers would be left behind. Who was
    interrupted is deaf to both from then on: all that is left is to say so, and to end with that exit code."""

    def __enter__(self) -> None:
        self.before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        if self.before[signal.SIGTERM] == signal.SIG_DFL:  # else whoever started this meant it to be deaf to it
            signal.signal(signal.SIGTERM, signal.default_int_handler)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        interrupted = isinstance(error, KeyboardInterrupt | click.exceptions.Abort | Interrupted)
        for number, handler in self.before.items():
            signal.signal(number, signal.SIG_IGN if interrupted else handler)


def _system_words(error: OSError) -> str:
    """A refusal of the disk or the network: what it is, how the system says it, and what to do about it."""
    import errno

    told = {
        errno.ENOSPC: ("the disk is full", "free some space and run the same command again: what is finished is kept"),
        errno.EDQUOT: ("your quota is used up", "free some space and run the same command again"),
        errno.EROFS: ("the file system is read-only", "name an output elsewhere"),
        errno.EACCES: ("you may not write or read there", "check the rights, or name another path"),
        errno.EMFILE: ("too many files are open", "raise the limit (ulimit -n)"),
    }
    other = "the disk or the network failed", "check both, then run the same command again; -vv tells more"
    what, do = told.get(error.errno or 0, other)
    return f"{what}\n  why:   {type(error).__name__}: {error}\n  do:    {do}"


def _fail(text: str, code: int, verbose: int) -> None:
    if verbose >= 2:
        import traceback

        traceback.print_exc()
    click.echo(f"zmend: {text}", err=True)
    sys.exit(code)
