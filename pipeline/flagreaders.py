"""Flag readers: lists of bad sections as other programs write them, as rows of a flags file. Text in, rows out.

    CATMAID   stack info with `broken_slices`, as /{project}/stack/{id}/info gives it: a list of sections, or an object
              whose keys are sections (older versions: how far away the section is that is shown instead)
    a list    [17, 23, [40, 42]]: sections, and half-open ranges of them
    drawn     what people have drawn in Neuroglancer or WEBKNOSSOS: see `drawings`
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from pipeline import drawings
from pipeline.errors import FlagError

ZYX = tuple[int, int, int]
Voxel = tuple[float, float, float]
Rows = list[dict[str, object]]
KNOWN = (
    "a CATMAID stack with broken_slices, a list of sections such as [17, 23, [40, 42]], a state of Neuroglancer, "
    "or an NML or userBoundingBoxes of WEBKNOSSOS"
)


def is_foreign(text: str) -> bool:
    """Whether a flags file is one of these, rather than CSV or a plain list."""
    return text.lstrip("\ufeff \t\r\n")[:1] in ("{", "[", "<")


def rows(text: str, name: str, shape: ZYX, voxel_nm: Voxel | None, classes: Sequence[str]) -> Rows:
    """The rows of a flags file, of a volume of `shape` (z, y, x). Raises FlagError, which names the file.

    Lists are of missing sections; of what was drawn the words tell which of `classes` it is.
    """
    try:
        document = None if drawings.is_nml(text) else _json(text, name)
        if document is not None and not drawings.is_drawn(document):
            return _listed(document, name)
        places = drawings.nml(text) if document is None else drawings.drawn(document)
        found = drawings.rows(places, shape, voxel_nm, classes)
    except drawings.NotUnderstoodError as error:
        do = f"it should be {KNOWN}"
        if "voxel size of the volume" in str(error):
            do = "add voxel_size_nm: [z, y, x] to `volume:`"
        raise FlagError("these annotations are not understood", where=name, why=str(error), do=do) from error
    if not found:
        raise FlagError("no flag in the file", where=name, why="nothing is drawn in it", do=f"it should be {KNOWN}")
    return found


def _json(text: str, name: str) -> Any:
    try:
        return json.loads(text.removeprefix("\ufeff"))
    except json.JSONDecodeError as error:
        where = f"{name}, line {error.lineno}"
        raise FlagError("this is not JSON", where=where, why=error.msg, do="export it again") from error
    except (ValueError, RecursionError) as error:  # numbers without end, brackets without end
        raise FlagError("this JSON cannot be read", where=name, why=str(error), do="export it again") from error


def _listed(document: Any, name: str) -> Rows:
    source, items = _items(document, name)
    found = [_row(*_range(item, name), source) for item in items]
    if not found:
        raise FlagError("no flag in the file", where=name, why="its list is empty", do=f"it should be {KNOWN}")
    return found


def _items(document: Any, name: str) -> tuple[str, list[Any]]:
    if isinstance(document, list):
        return "list", document
    broken = document.get("broken_slices", document)
    if isinstance(broken, list):
        return "CATMAID", broken
    if isinstance(broken, dict) and all(re.fullmatch("[0-9]{1,18}", key) for key in broken):
        return "CATMAID", sorted(map(int, broken))
    keys = ", ".join(map(str, list(document)[:5]))
    raise FlagError("this JSON is no list of sections", where=name, why=f"its keys are {keys}", do=f"give {KNOWN}")


def _range(item: Any, name: str) -> tuple[int, int]:
    ends = item if isinstance(item, list) else [item, item + 1] if _whole(item) else []
    if len(ends) != 2 or not all(map(_whole, ends)):
        raise FlagError(f"{item!r} is no section", where=name, why="sections are whole numbers", do=f"give {KNOWN}")
    return ends[0], ends[1]


def _whole(item: Any) -> bool:
    return isinstance(item, int) and not isinstance(item, bool)


def _row(start: int, stop: int, source: str) -> dict[str, object]:
    return {"z_start": start, "z_stop": stop, "class": "missing", "source": source}
