"""Page: a document to one HTML file that works from disk, asks nothing of the network, runs its own script alone."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from pipeline.errors import UsageError
from pipeline.files import Files, on_disk

MARK = "<!-- made by zmend report -->"
POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{script}'; "
    "base-uri 'none'; form-action 'none'"
)


def render(template: str, document: dict[str, Any]) -> str:
    """The page as text. Whatever is in the document is escaped; the policy lets the page's own script run alone."""
    environment = Environment(
        loader=PackageLoader("pipeline.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    script, style = (_text(environment, name) for name in ("report.js", "report.css"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = POLICY.format(script=digest)
    return environment.get_template(template).render(
        **document, script=script, style=style, policy=policy, mark=MARK, number=number, short=short
    )


def _text(environment: Environment, name: str) -> str:
    assert environment.loader is not None
    return environment.loader.get_source(environment, name)[0]


def check_target(path: str, *places: Files) -> None:
    """Refuse to write over what is no report, and into volumes and stores. Raises UsageError."""
    on_disk(path, "--out")
    target = Path(path)
    if target.is_dir() or (target.exists() and MARK not in target.read_text(errors="replace")[:400]):
        why = "what it holds would be lost"
        raise UsageError(f"{path} is there already, and is no report", why=why, do="name another: --out FILE")
    for place in places:
        if place.local is not None and place.local.resolve() in target.resolve().parents:
            why = "a volume holds its own files and no others"
            raise UsageError(f"{path} lies in {place.uri}", why=why, do="name a place beside it")


def write(path: str, page: str) -> int:
    """Write the page whole, or not at all; returns its bytes."""
    body = page.encode(errors="replace")
    folder = Path(path).absolute()
    folder.parent.mkdir(parents=True, exist_ok=True)
    Files(str(folder.parent)).keep(folder.name, body)
    return len(body)


def number(value: float) -> str:
    """A count as people read it: 12,345,678."""
    return f"{value:,.0f}"


def short(value: float | None, digits: int = 2) -> str:
    """A score as people read it; a dash where there is none."""
    return "–" if value is None else f"{value:.{digits}f}"


def file_name(name: str) -> str:
    """A name for a download, of letters that every system takes."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip(".-")[:80] or "zmend"
