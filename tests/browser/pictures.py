"""The pictures of README and docs, drawn by a real browser from the demo's phantom: make pictures.

report.webp   one defect of the report
view.webp     Neuroglancer, source beside restored, at a section that was missing
"""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright

from tests.browser.conftest import CHROMIUM, LAID_OUT, PATIENCE_MS, WEBGL

DOCS = Path(__file__).parents[2] / "docs"
SIZE = {"width": 1100, "height": 900}
DEFECT, STEPS = "fold", 2  # in the report; how often one steps on in the list of defects
LOADED_MS = 10_000  # Neuroglancer does not say when its last chunk is drawn


def main(folder: Path) -> None:
    """Draw both, from a demo in this folder, which is made where there is none."""
    made = folder / "diffusion.zarr"
    if not made.exists():
        subprocess.run([sys.executable, "-m", "pipeline", "demo", "--out", str(folder)], check=True)
    subprocess.run([sys.executable, "-m", "pipeline", "report", str(made), "--out", str(folder / "report.html")], check=True)
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", *WEBGL], timeout=PATIENCE_MS)
        page = browser.new_page(viewport=SIZE)
        page.goto((folder / "report.html").absolute().as_uri())
        page.evaluate(LAID_OUT)
        card = page.locator("article", has=page.locator("h3", has_text=DEFECT)).first
        for _ in range(2):  # what lies above is laid out only now, and moves it
            card.evaluate("(e) => e.scrollIntoView()")
            page.wait_for_timeout(2000)
        _save(page, DOCS / "report.webp")
        _view(browser.new_page(viewport=SIZE), made)
        browser.close()


def _view(page: Any, made: Path) -> None:
    process = subprocess.Popen([sys.executable, "-m", "pipeline", "view", str(made), "--json"], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    page.goto(json.loads(process.stdout.readline())["url"], timeout=PATIENCE_MS)
    page.locator(".neuroglancer-rendered-data-panel").nth(3).wait_for(timeout=PATIENCE_MS)
    for _ in range(STEPS):
        page.keyboard.press("n")
        page.wait_for_timeout(2000)
    page.wait_for_timeout(LOADED_MS)
    _save(page, DOCS / "view.webp")
    process.send_signal(signal.SIGINT)
    process.wait()


def _save(page: Any, path: Path) -> None:
    Image.open(io.BytesIO(page.screenshot(timeout=PATIENCE_MS))).convert("RGB").save(path, quality=82, method=6)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
