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
        _fail(f"{type(e).__name__}: {e}\n  do:    {_system_remedy(e)}", UnfitError.exit_code, verbose)
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
