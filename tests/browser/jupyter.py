"""JupyterLab on the loopback with nothing of the user's settings, and a page in headless Chromium."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

ARTIFACTS = Path(__file__).parents[1] / "artifacts"
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
WEBGL = [
    "--use-gl=angle",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
]  # without a GPU


def chromium() -> str | None:
    """The installed Chromium, or None."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return next(filter(None, map(shutil.which, names)), None)


@contextlib.contextmanager
def opened(folder: Path, *cells: str, more: Sequence[str] = ()) -> Iterator[Notebook]:
    """A new notebook of these code cells below `folder`, opened by a fresh JupyterLab."""
    work, settings = folder / "work", folder / "settings"
    work.mkdir()
    settings.mkdir()
    common = {"cell_type": "code", "execution_count": None, "metadata": {}, "outputs": []}
    written = [{**common, "id": f"c{i}", "source": text} for i, text in enumerate(cells)]
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    book = {
        "cells": written,
        "metadata": {"kernelspec": kernel},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    (work / "test.ipynb").write_text(json.dumps(book))
    ARTIFACTS.mkdir(exist_ok=True)
    server = lab(work, settings, HF_HUB_OFFLINE="1")
    with server as address, browser_page(more=more) as page:
        notebook = Notebook(page, address, "test.ipynb")
        notebook.open()
        yield notebook


@contextlib.contextmanager
def lab(folder: Path, settings: Path, **environment: str) -> Iterator[str]:
    """A JupyterLab server of `folder`; gives its address. No token, hence loopback only."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for name in ("CONFIG_DIR", "DATA_DIR", "RUNTIME_DIR"):
        environment[f"JUPYTER_{name}"] = str(settings / name.lower())
    environment |= {
        "JUPYTERLAB_SETTINGS_DIR": str(settings / "lab"),
        "JUPYTERLAB_WORKSPACES_DIR": str(settings / "workspaces"),
        "IPYTHONDIR": str(settings / "ipython"),
    }
    command = [
        sys.executable, "-m", "jupyterlab", "--no-browser", "--ip=127.0.0.1", f"--port={port}",
        "--ServerApp.token=", "--ServerApp.password=", "--ServerApp.port_retries=0",
        "--allow-root", f"--ServerApp.root_dir={folder}",
    ]  # fmt: skip
    quiet = settings / "lab" / "@jupyterlab" / "apputils-extension"
    quiet.mkdir(parents=True)  # no question about news over the notebook
    (quiet / "notification.jupyterlab-settings").write_text('{"fetchNews": "false"}')
    log = (settings / "lab.log").open("w")
    server = subprocess.Popen(
        command, env=os.environ | environment, cwd=folder, stdout=log, stderr=subprocess.STDOUT
    )
    try:
        address = f"http://127.0.0.1:{port}"
        wait_until(lambda: _answers(f"{address}/api/status"), 60, f"JupyterLab ({log.name})")
        yield address
    finally:
        server.terminate()  # its kernels end with it
        server.wait(20)
        log.close()


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=2) as reply:
            return reply.status == 200
    except OSError:
        return False


def wait_until(condition, seconds: float, what: str) -> None:
    """Poll until `condition()` holds; an error that names `what` after `seconds`."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return
        time.sleep(0.25)
    raise AssertionError(f"waited {seconds} s in vain for {what}")


@contextlib.contextmanager
def browser_page(width: int = 1280, height: int = 900, more: Sequence[str] = ()) -> Iterator:
    """A page of headless Chromium; what its console says is kept in `page.errors`.

    more: further flags, such as WEBGL for 3-D figures.
    """
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium(), args=[*FLAGS, *more])
        page = browser.new_page(viewport={"width": width, "height": height})
        page.errors = []
        page.on("pageerror", lambda error: page.errors.append(str(error)))
        try:
            yield page
        finally:
            browser.close()


class Notebook:
    """A notebook open in the page."""

    def __init__(self, page, address: str, name: str) -> None:
        self.page, self.address, self.name = page, address, name

    def open(self) -> None:
        """Open (or open again) the notebook and wait for its first cell and its kernel."""
        self.page.goto(f"{self.address}/lab/tree/{self.name}?reset")
        self.page.wait_for_selector(".jp-Notebook .jp-Cell", timeout=60_000)
        bar = self.page.locator("#jp-main-statusbar")
        wait_until(lambda: "| Idle" in bar.inner_text(), 60, "an idle kernel")

    def cell(self, number: int):
        """The code cell `number`, from 0."""
        return self.page.locator(".jp-Notebook .jp-CodeCell").nth(number)

    def run(self, number: int, seconds: float = 60) -> None:
        """Run a code cell and wait until it has ended."""
        cell = self.cell(number)
        cell.locator(".jp-InputArea-editor").click()
        self.page.keyboard.press("Control+Enter")
        prompt = cell.locator(".jp-InputPrompt")
        wait_until(
            lambda: prompt.inner_text().strip() not in ("[*]:", "[ ]:"), seconds, f"cell {number}"
        )

    def button(self, name: str):
        """The panel's button of that name."""
        return self.page.locator(".wb-buttons").get_by_role("button", name=name)

    def change(self, section: str, field: str, value: str) -> None:
        """Set a control of the panel as a person does: open its section, then type or choose."""
        controls = self.page.locator(".wb-controls")
        header = controls.get_by_role("button", name=section)
        if "mod-active" not in header.get_attribute("class"):
            header.click()
        row = controls.locator(".widget-inline-hbox").filter(
            has=self.page.locator(f"label:text-is('{field}'), .widget-label:text-is('{field}')")
        )
        if row.locator("select").count():
            row.locator("select").select_option(value)
            return
        box = row.locator("input[type=number], input[type=text], .widget-readout").last
        box.fill(value)
        box.press("Enter")

    def tab(self, name: str, picture: str = "") -> None:
        """Open a tab of the panel; keep a picture of it as an artefact where one is named."""
        self.page.get_by_role("tab", name=name).click()
        if picture:
            self.page.wait_for_timeout(1_000)
            self.page.locator(".wb-panel").scroll_into_view_if_needed()
            self.page.screenshot(path=ARTIFACTS / f"{picture}.png")

    def marks(self) -> str:
        """What the marks on the curves say."""
        return " ".join(map(str, self.trace("mark/pass")["text"]))

    def message(self) -> str:
        """The panel's message line."""
        return self.page.locator(".wb-message").inner_text()

    def restart_kernel(self) -> None:
        """Restart the kernel by JupyterLab's own button: the page must know of it (LOG.md, 2026-11-27)."""
        self.page.locator("[data-command='notebook:restart-kernel']").first.click()
        dialog = self.page.locator(".jp-Dialog")
        dialog.get_by_role("button", name="Confirm Kernel Restart").click()

    def trace(self, key: str, run: int = 0) -> dict:
        """A curve as the page holds it: its x, y, text and whether it is shown."""
        return self.page.evaluate(
            """([key, run]) => {
                const plot = document.querySelector('.wb-curves .js-plotly-plot');
                const trace = plot && plot.data &&
                    plot.data.find(t => t.meta && t.meta.key === key && t.meta.run === run);
                if (!trace) return {x: [], y: [], text: [], visible: false};
                const list = values => Array.from(values || []);
                return {x: list(trace.x), y: list(trace.y), text: list(trace.text),
                        visible: trace.visible};
            }""",
            [key, run],
        )

    def steps(self, key: str = "entropy", run: int = 0) -> int:
        """How many points a curve has."""
        return len(self.trace(key, run)["x"])
