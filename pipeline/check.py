"""Check: one question that is put to a store, and its answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

SHOWN = 5  # findings named per check; the rest is counted


@dataclass
class Check:
    """One question and its answer."""

    name: str
    findings: list[str] = field(default_factory=list)
    detail: str = ""
    early: str = ""  # why nothing is wrong but that the run has not ended

    def document(self) -> dict[str, Any]:
        """JSON-ready."""
        more = [f"and {len(self.findings) - SHOWN} more"] if len(self.findings) > SHOWN else []
        return {
            "name": self.name,
            "ok": not self.findings,
            "detail": self.detail,
            "findings": self.findings[:SHOWN] + more,
        }


def answer(name: str, step: Callable[[], Check]) -> Check:
    """The step's answer; that a file cannot be read at all is an answer too."""
    try:
        return step()
    except Exception as e:  # a store that was tampered with fails in any way there is; each of them is an answer
        return Check(name, [f"{first(e)} ({type(e).__name__})"], "could not be carried out")


def first(error: BaseException) -> str:
    """An error's first line."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__
