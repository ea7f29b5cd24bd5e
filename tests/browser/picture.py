"""The picture of the panel in README: `python -m tests.browser.picture [OUT.png]`.

A run of the tiny model in a real JupyterLab: forty steps of RLOO, then MaxRL with an anchor, then a pause.
It takes about three minutes.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from .jupyter import opened, wait_until

CELL = "import workbench as wb\n\nui = wb.panel(wb.Recipe(steps=100, eval_every=5, eval_samples=32))\nui"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out", nargs="?", default="data/pictures/panel.png")
    out = Path(parser.parse_args().out).resolve()
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, opened(Path(folder), CELL) as notebook:
        page = notebook.page
        page.set_viewport_size({"width": 1360, "height": 1120})
        page.keyboard.press("Control+b")  # no file browser beside the notebook
        notebook.run(0, seconds=120)
        page.wait_for_selector(".wb-curves .js-plotly-plot", timeout=60_000)
        notebook.button("Start").click()
        wait_until(lambda: notebook.steps() >= 40, 400, "forty steps")
        notebook.change("Objective", "objective", "maxrl")
        notebook.change("KL anchor", "beta", "0.02")
        wait_until(lambda: notebook.steps() >= 70, 400, "thirty more")
        notebook.button("Pause").click()
        wait_until(lambda: not notebook.button("Step").is_disabled(), 60, "the pause")
        panel = page.locator(".wb-panel")
        panel.scroll_into_view_if_needed()
        page.mouse.move(5, 5)
        page.wait_for_timeout(1_500)
        box = panel.bounding_box()
        clip = {"x": box["x"] - 8, "y": box["y"], "width": box["width"] + 16}
        page.screenshot(path=out, clip=clip | {"height": min(box["height"], 1_088 - box["y"])})
    print(f"{out}: {out.stat().st_size / 1024:.0f} KB")


if __name__ == "__main__":
    main()
