"""Thinking and answer apart in a real JupyterLab: the strip, a live change of it, and coloured tokens."""

import pytest

from .jupyter import ARTIFACTS, chromium, opened, wait_until

CELL = (
    "import workbench as wb\n"
    "wb.panel(wb.Recipe(\n"
    "    model='guide-strong', task='questions', objective='grpo', learning_rate=1e-3,\n"
    "    rewards={'learned': 1.0, 'correct': 0.0}, separation='thinking_only', steps=5000,\n"
    "    prompts_per_step=2, group_size=4, rollouts_every=1, eval_every=5000,\n"
    "    eval_prompts=2, eval_samples=2))"
)

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(chromium() is None, reason="no Chromium is installed"),
]


@pytest.fixture
def notebook(tmp_path):
    """A notebook of CELL, opened by a fresh JupyterLab."""
    with opened(tmp_path, CELL) as notebook:
        yield notebook


def test_separation_is_changed_live_and_tokens_show_it(notebook):
    page = notebook.page
    notebook.run(0, seconds=120)
    page.wait_for_selector(".wb-panel", timeout=60_000)
    page.locator(".wb-controls").get_by_role("button", name="Think / answer").click()

    def strip() -> str:
        return page.locator("svg.wb-strip").get_attribute("aria-label")

    assert "Planned: steps 1 to 5000 thinking." in strip()
    notebook.button("Start").click()
    wait_until(lambda: "Trained: steps 1 to " in strip(), 240, "the first steps on the strip")
    assert page.locator(".wb-s-thinking:not(.wb-s-plan)").count()
    assert "Changed" not in strip()

    field = page.locator(".wb-controls .widget-inline-hbox").filter(
        has=page.locator(".widget-label:text-is('separation')")
    )
    field.locator("select").select_option("answer_only")
    wait_until(lambda: "Changed at step " in strip(), 120, "the change on the strip")
    changed = int(strip().rsplit("Changed at step ", 1)[1].rstrip("."))
    trained = f"Trained: steps 1 to {changed - 1} thinking; step"
    wait_until(lambda: trained in strip() and "answer. Planned" in strip(), 60, "both stages")
    assert page.locator("svg.wb-strip .wb-s-diamond").count() == 1
    wait_until(lambda: changed in notebook.trace("mark/entropy")["x"], 60, "the mark on the curves")
    assert "answer_only" in str(notebook.trace("mark/entropy")["text"])
    page.screenshot(path=ARTIFACTS / "separation.png")

    notebook.button("Stop").click()
    wait_until(lambda: not notebook.button("Start").is_disabled(), 120, "the stopped run")
    page.get_by_role("tab", name="Rollouts").click()
    table = page.locator(".wb-rollouts .wb-table")
    wait_until(lambda: table.locator("tbody tr").count() > 0, 30, "rollouts")
    colour = page.locator(".wb-rollouts .widget-inline-hbox").filter(
        has=page.locator(".widget-label:text-is('colour')")
    )
    colour.locator("select").select_option("gradient")
    wait_until(lambda: table.locator(".wb-t-answer").count() > 0, 30, "the coloured answers")
    assert "</think>" in table.locator(".wb-t-off").first.inner_text()  # thoughts are masked by now
    assert table.locator(".wb-t-thinking").count() == 0
    page.screenshot(path=ARTIFACTS / "gradient.png")
    assert page.errors == []
