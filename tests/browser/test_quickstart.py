"""The tour of 00_quickstart in a real JupyterLab: what a person sees, read from the page's data."""

import shutil
import time

import pytest

from workbench import packaged

from .jupyter import ARTIFACTS, Notebook, browser_page, chromium, lab, wait_until

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
    ARTIFACTS.mkdir(exist_ok=True)
    server = lab(work, settings, WORKBENCH_SMOKE="1", HF_HUB_OFFLINE="1")
    with server as address, browser_page() as page:
        notebook = Notebook(page, address, "00_quickstart.ipynb")
        notebook.open()
        yield notebook


def change(notebook, section, field, value):
    """Set a control of the panel as a person does: open its section, type or choose."""
    controls = notebook.page.locator(".wb-controls")
    header = controls.get_by_role("button", name=section)
    if "mod-active" not in header.get_attribute("class"):
        header.click()
    row = controls.locator(".widget-inline-hbox").filter(
        has=notebook.page.locator(f"label:text-is('{field}'), .widget-label:text-is('{field}')")
    )
    if row.locator("select").count():
        row.locator("select").select_option(value)
        return
    box = row.locator("input[type=number], input[type=text], .widget-readout").last
    box.fill(value)
    box.press("Enter")


def test_the_tour_of_the_quickstart(notebook):
    page = notebook.page
    notebook.run(0, seconds=120)
    page.wait_for_selector(".wb-curves .js-plotly-plot", timeout=60_000)
    assert not notebook.button("Start").is_disabled() and notebook.button("Stop").is_disabled()

    change(notebook, "Optimiser", "steps", "5000")
    notebook.button("Start").click()
    wait_until(lambda: notebook.steps() >= 2, 240, "the first steps on the curve")
    early = notebook.steps()
    wait_until(lambda: notebook.steps() > early, 120, "the curve to grow")
    assert len(notebook.trace("pass@1")["y"]) >= 1

    change(notebook, "Objective", "objective", "maxrl")
    change(notebook, "KL anchor", "beta", "0.05")
    wait_until(lambda: len(notebook.trace("mark/pass")["x"]) >= 3, 120, "the marks")
    wait_until(lambda: "beta" in str(notebook.trace("mark/pass")["text"]), 60, "the mark of beta")
    marks = " ".join(map(str, notebook.trace("mark/pass")["text"]))
    assert "maxrl" in marks and "0.05" in marks
    assert notebook.trace("mark/entropy")["x"] == notebook.trace("mark/pass")["x"]
    page.screenshot(path=ARTIFACTS / "running.png")

    notebook.button("Pause").click()
    wait_until(lambda: not notebook.button("Step").is_disabled(), 60, "the pause")
    held = notebook.steps()
    notebook.button("Step").click()
    wait_until(lambda: notebook.steps() == held + 1, 60, "the single step")
    notebook.button("Stop").click()
    wait_until(lambda: not notebook.button("Start").is_disabled(), 120, "the stopped run")
    assert "Stopped" in page.locator(".wb-message").inner_text()
    drawn = notebook.steps()
    at_rest = notebook.trace("entropy")

    page.get_by_role("tab", name="Rollouts").click()
    wait_until(lambda: page.locator(".wb-rollouts .wb-table tbody tr").count() > 0, 30, "rollouts")
    assert page.locator(".wb-rollouts .wb-table bdi").first.inner_text()
    page.screenshot(path=ARTIFACTS / "rollouts.png")
    page.get_by_role("tab", name="Curves").click()
    assert page.evaluate("document.querySelector('.wb-panel').scrollWidth") <= 1280

    page.keyboard.press("Control+s")
    time.sleep(2)
    notebook.open()
    page.wait_for_selector(".wb-panel", timeout=60_000)
    wait_until(lambda: notebook.steps() == drawn, 60, "the curves after the reload")
    assert notebook.trace("entropy") == at_rest
    assert not notebook.button("Start").is_disabled()
    page.locator(".wb-panel").scroll_into_view_if_needed()
    page.screenshot(path=ARTIFACTS / "reloaded.png")

    notebook.button("Fork").click()
    wait_until(lambda: not notebook.button("Pause").is_disabled(), 120, "the fork to go on")
    assert "Forked from" in page.locator(".wb-message").inner_text()
    notebook.button("Stop").click()
    wait_until(lambda: not notebook.button("Start").is_disabled(), 120, "the stopped fork")
    page.screenshot(path=ARTIFACTS / "forked.png")
    assert page.errors == []


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
