"""The whole tour of the panel in a real JupyterLab: what a person sees, read from the page's data.

One notebook, the quickstart, with cells added that spoil saved texts, kill the kernel's memory of the run and
attach again. A picture of each tab is kept in tests/artifacts.
"""

import json

import pytest

from workbench import packaged

from .jupyter import ARTIFACTS, Notebook, browser_page, chromium, lab, wait_until

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(chromium() is None, reason="no Chromium is installed"),
]

SPOIL = """
import pandas as pd
hostile = ("<script>window.hit=1</script><img src=x onerror=window.hit=1></think>"
           "\\u202eright to left\\u202c \\u05e9\\u05dc\\u05d5\\u05dd <b>bold</b> $x^2$")
for kind in ("rollouts", "held_out"):
    for file in (ui.runs[0].path / kind).glob("*.parquet"):
        table = pd.read_parquet(file)
        for column in ("prompt", "completion", "answer"):
            table[column] = hostile
        if "tokens" in table:
            table["tokens"] = [[hostile] * len(row) for row in table["tokens"]]
        table.to_parquet(file)
again = wb.panel(*reversed(ui.runs))  # steering the first, whose rollouts are spoilt
ui.close()
again
"""
ATTACH = """
import workbench as wb
(newest, *others) = wb.runs()
back = wb.panel(wb.attach(newest.path))
back
"""


@pytest.fixture
def notebook(tmp_path):
    """The quickstart with two more cells, opened by a fresh JupyterLab in an empty folder."""
    work, settings = tmp_path / "work", tmp_path / "settings"
    work.mkdir()
    settings.mkdir()
    book = json.loads(packaged.notebooks_path("00_quickstart.ipynb").read_text(encoding="utf-8"))
    code = [cell for cell in book["cells"] if cell["cell_type"] == "code"]
    common = {"cell_type": "code", "execution_count": None, "metadata": {}, "outputs": []}
    added = [{**common, "id": f"added{i}", "source": s} for i, s in enumerate((SPOIL, ATTACH))]
    book["cells"] = [code[0], *added]
    (work / "tour.ipynb").write_text(json.dumps(book))
    ARTIFACTS.mkdir(exist_ok=True)
    server = lab(work, settings, WORKBENCH_SMOKE="1", HF_HUB_OFFLINE="1")
    with server as address, browser_page() as page:
        page.context.grant_permissions(["clipboard-read", "clipboard-write"], origin=address)
        notebook = Notebook(page, address, "tour.ipynb")
        notebook.open()
        try:
            yield notebook
        finally:  # what was there when it failed
            page.screenshot(path=ARTIFACTS / "tour-at-the-end.png")


def test_the_tour(notebook):
    page = notebook.page
    notebook.run(0, seconds=120)
    page.wait_for_selector(".wb-curves .js-plotly-plot", timeout=60_000)
    start_and_toggle(notebook)
    pause_and_look_inside(notebook)
    take_away(notebook)
    fork_and_compare(notebook)
    rewind(notebook)
    visit_the_other_tabs(notebook)
    reload_and_reopen(notebook)
    read_hostile_text(notebook)
    restart_and_attach(notebook)
    assert page.errors == []


def start_and_toggle(notebook):
    """Start, then one control of each kind while it trains; each lands and leaves its mark."""
    assert not notebook.button("Start").is_disabled() and notebook.button("Stop").is_disabled()
    notebook.change("Optimiser", "steps", "5000")
    notebook.button("Start").click()
    wait_until(lambda: notebook.steps() >= 2, 240, "the first steps on the curve")
    early = notebook.steps()
    wait_until(lambda: notebook.steps() > early, 120, "the curve to grow")
    assert len(notebook.trace("pass@1")["y"]) >= 1
    toggles = (
        ("Objective", "objective", "rl2ml", "rl2ml"),
        ("Objective", "alpha", "1.5", "alpha"),
        ("KL anchor", "anchor", "sage", "sage"),
        ("KL anchor", "beta", "0.05", "beta"),
        ("Rewards", "correct", "0.9", "rewards.correct"),
        ("Think / answer", "separation", "thinking_only", "thinking_only"),
        ("Sampling", "temperature", "0.9", "temperature"),
        ("Optimiser", "learning rate", "0.001", "learning_rate"),
    )
    for section, field, value, mark in toggles:
        notebook.change(section, field, value)
        wait_until(lambda mark=mark: mark in notebook.marks(), 90, f"the mark of {mark}")
    assert notebook.trace("mark/entropy")["x"] == notebook.trace("mark/pass")["x"]
    for fixed in ("Model", "Task"):
        page_section = notebook.page.locator(".wb-controls").get_by_role("button", name=fixed)
        assert page_section.count() == 1
    notebook.tab("Curves", picture="curves")


def pause_and_look_inside(notebook):
    """One step by hand, and the step from inside."""
    page = notebook.page
    notebook.button("Pause").click()
    wait_until(lambda: not notebook.button("Step").is_disabled(), 60, "the pause")
    held = notebook.steps()
    notebook.button("Step").click()
    wait_until(lambda: notebook.steps() == held + 1, 60, "the single step")
    shown = page.locator(".wb-inside")
    wait_until(lambda: shown.count() >= 3 and shown.first.is_visible(), 60, "the step from inside")
    text = page.locator(".wb-rollouts:visible").inner_text()
    for part in ("surrogate loss", "anchor loss", "gradient norm", "KL to reference", "right"):
        assert part in text
    assert page.locator(".wb-inside svg rect").count() >= 4
    notebook.tab("Inside", picture="inside")


def take_away(notebook):
    """Code and link into the clipboard, the report into a tab of its own."""
    page = notebook.page
    page.get_by_role("button", name="Copy code").click()
    wait_until(lambda: "copied as code" in notebook.message(), 30, "the copied code")
    code = page.evaluate("navigator.clipboard.readText()")
    assert code.startswith("import workbench as wb") and "rl2ml" in code and "sage" in code
    page.get_by_role("button", name="Copy link").click()
    wait_until(lambda: "copied as a link" in notebook.message(), 30, "the copied link")
    assert page.evaluate("navigator.clipboard.readText()").startswith("workbench:")
    with page.context.expect_page() as opened:
        page.get_by_role("button", name="Report").click()
    report = opened.value
    report.wait_for_url("blob:**", timeout=60_000)
    inside = report.frame_locator("iframe")
    inside.locator(".js-plotly-plot .main-svg").first.wait_for(timeout=60_000)
    assert "Before and after" in inside.locator("body").inner_text()
    assert report.locator("iframe").get_attribute("sandbox") == "allow-scripts"
    report.close()


def fork_and_compare(notebook):
    """A fork goes on beside its parent; Compare names what differs, and nothing else."""
    notebook.button("Fork").click()
    wait_until(lambda: "Forked from" in notebook.message(), 60, "the fork")
    notebook.change("Objective", "objective", "maxrl")
    wait_until(lambda: "maxrl" in str(notebook.trace("mark/pass", run=1)["text"]), 180, "its mark")
    assert notebook.steps(run=1) > notebook.steps(run=0) and "maxrl" not in notebook.marks()
    notebook.button("Pause").click()
    wait_until(lambda: not notebook.button("Step").is_disabled(), 60, "the pause of the fork")
    notebook.tab("Compare", picture="compare")
    table = notebook.page.locator(".wb-c-runs")
    wait_until(lambda: table.locator("tbody tr").count() == 2, 60, "both runs in the table")
    head = table.locator("thead")
    wait_until(lambda: "objective" in head.inner_text().lower(), 30, "what differs")
    assert "learning" not in head.inner_text().lower()


def rewind(notebook):
    """Back to the fork's first checkpoint, which takes its points off the curve."""
    reached = notebook.steps(run=1)
    first = notebook.page.locator(".wb-buttons select").first
    first.select_option(index=0)
    notebook.button("Rewind").click()
    wait_until(lambda: notebook.steps(run=1) < reached, 120, "the fork to go back")
    wait_until(
        lambda: "rewound from" in str(notebook.trace("mark/pass", run=1)["text"]), 60, "a mark"
    )
    notebook.button("Stop").click()
    wait_until(lambda: not notebook.button("Start").is_disabled(), 120, "the stopped fork")
    wait_until(lambda: "Stopped" in notebook.message(), 30, "the message")


def visit_the_other_tabs(notebook):
    """Rollouts, Groups, Geometry and Cross hold something; nothing is wider than the window."""
    page = notebook.page
    notebook.tab("Rollouts", picture="rollouts")
    rows = page.locator(".wb-rollouts .wb-table tbody tr")
    wait_until(lambda: rows.count() > 0, 30, "rollouts")
    notebook.tab("Groups", picture="groups")
    wait_until(
        lambda: page.locator(".wb-rollouts:visible svg").count() > 0, 30, "the histogram of K"
    )
    assert "reserved" in page.locator(".wb-rollouts:visible").inner_text()
    for name in ("Geometry", "Cross"):
        notebook.tab(name, picture=name.lower())
    notebook.tab("Curves")
    assert page.evaluate("document.querySelector('.wb-panel').scrollWidth") <= 1280


def reload_and_reopen(notebook):
    """The page is closed and opened anew while the server stays: the curves are there, whole."""
    page = notebook.page
    drawn, at_rest = notebook.steps(), notebook.trace("entropy")
    page.keyboard.press("Control+s")
    page.wait_for_timeout(2_000)
    page.goto("about:blank")
    notebook.open()
    if not page.locator(".wb-panel").or_(page.get_by_text("model not found")).first.is_visible():
        page.wait_for_timeout(10_000)
    if page.get_by_text(
        "model not found"
    ).count():  # a busy machine: JupyterLab gave up on the kernel
        notebook.open()
    page.wait_for_selector(".wb-panel", timeout=60_000)
    wait_until(lambda: notebook.steps() == drawn, 60, "the curves after the reload")
    assert notebook.trace("entropy") == at_rest
    assert not notebook.button("Start").is_disabled()


def read_hostile_text(notebook):
    """Texts with markup, scripts and turned direction are shown as they are, and do nothing."""
    page = notebook.page
    notebook.run(1, seconds=60)
    page.wait_for_selector(".wb-panel", timeout=60_000)
    for tab in ("Rollouts", "Inside", "Groups"):
        notebook.tab(tab, picture=f"hostile-{tab.lower()}")
        if tab != "Groups":
            found = page.locator(".wb-rollouts:visible").inner_text()
            assert "<script>window.hit=1</script>" in found and "<img src=x" in found
    notebook.tab("Rollouts")
    colour = page.get_by_label("colour")
    for option in colour.locator("option").all_inner_texts():
        colour.select_option(option)
        page.wait_for_timeout(300)
        assert page.evaluate("window.hit") is None, option
    assert page.locator(".wb-panel script, .wb-panel img, .wb-panel bdi b").count() == 0
    assert page.locator(".wb-rollouts:visible bdi").count() > 0
    assert page.locator(".wb-rollouts mjx-container, .wb-rollouts .MathJax").count() == 0


def restart_and_attach(notebook):
    """The kernel starts anew and knows nothing; the run is found in its folder and goes on."""
    page = notebook.page
    notebook.restart_kernel()
    page.get_by_role("menuitem", name="Edit", exact=True).click()
    page.get_by_role("menuitem", name="Clear Outputs of All Cells").click()
    wait_until(lambda: page.locator(".wb-panel").count() == 0, 30, "the old panels to be cleared")
    bar = page.locator("#jp-main-statusbar")
    wait_until(lambda: "| Idle" in bar.inner_text(), 60, "the kernel after its restart")
    notebook.run(2, seconds=120)
    page.wait_for_selector(".wb-curves .js-plotly-plot", timeout=60_000)
    wait_until(lambda: notebook.steps() >= 1, 60, "the curves of the run found again")
    before = notebook.steps()
    notebook.button("Resume").click()
    wait_until(lambda: notebook.steps() > before, 240, "the run to go on")
    page.locator(".wb-panel").scroll_into_view_if_needed()
    page.screenshot(path=ARTIFACTS / "attached.png")
    notebook.button("Stop").click()
    wait_until(lambda: "Stopped" in notebook.message(), 120, "the run to stop")
