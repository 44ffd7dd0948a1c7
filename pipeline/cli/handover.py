"""The commands of the other package, called by name: this one never imports torch or `model`."""

from __future__ import annotations

from collections.abc import Callable

from pipeline.errors import InputError, UnfitError


def hand_over(verb: str, module: str, args: list[str]) -> int:
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
