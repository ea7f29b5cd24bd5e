"""The panel of 00_quickstart by keyboard alone, in a real JupyterLab; test_tour uses the mouse."""

import shutil

import pytest

from workbench import packaged

from .jupyter import Notebook, browser_page, chromium, lab, wait_until

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(chromium() is None, reason="no Chromium is installed"),
]


@pytest.fixture
def notebook(tmp_path):
    """The quickstart, opened by a fresh JupyterLab from a copy in an empty folder."""
    work, settings = tmp_path / "work", tmp_path / "settings"
    work.mkdir()
    settings.mkdir()
    shutil.copy(packaged.notebooks_path("00_quickstart.ipynb"), work)
    server = lab(work, settings, WORKBENCH_SMOKE="1", HF_HUB_OFFLINE="1")
    with server as address, browser_page() as page:
        notebook = Notebook(page, address, "00_quickstart.ipynb")
        notebook.open()
        yield notebook


def test_controls_are_reached_by_the_keyboard(notebook):
    page = notebook.page
    notebook.run(0, seconds=120)
    page.wait_for_selector(".wb-panel", timeout=60_000)
    notebook.button("Start").focus()
    reached = []
    for _ in range(90):  # fourteen rewards alone are two stops each
        page.keyboard.press("Tab")
        reached.append(
            page.evaluate(
                "(e => [e.title, e.closest('.widget-inline-hbox')?.querySelector('.widget-label')"
                "?.innerText, e.innerText].filter(Boolean).join(' '))"
                "(document.activeElement)"
            )
        )
    text = " | ".join(reached)
    for name in ("objective", "anchor", "beta", "correct", "Show or hide: Model"):
        assert name in text, f"{name} is not reached by Tab: {text}"
    page.locator(".wb-controls").get_by_role("button", name="Model").focus()
    page.keyboard.press("Enter")
    rank = page.locator(".wb-controls .widget-label:text-is('lora rank')")
    wait_until(rank.is_visible, 20, "the section Model to unfold")
