"""Instructions in a real JupyterLab: a judge is trained first, hard and soft are apart, choices land live."""

import pytest

from .jupyter import ARTIFACTS, chromium, opened, wait_until

CELL = (
    "import workbench as wb\n"
    "wb.panel(wb.Recipe(\n"
    "    model='scribe', task='instructions', task_args={'chains': 8}, objective='grpo',\n"
    "    rewards={'constraints': 1.0, 'correct': 0.0}, steps=5000, max_new_tokens=48,\n"
    "    prompts_per_step=2, group_size=4, rollouts_every=1, eval_every=5000,\n"
    "    eval_prompts=4, eval_samples=2))"
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


def test_a_run_trains_its_judge_shows_hard_and_soft_apart_and_takes_changes(notebook):
    page = notebook.page
    notebook.run(0, seconds=120)
    page.wait_for_selector(".wb-panel", timeout=60_000)
    notebook.button("Start").click()
    said = page.locator(".wb-panel")
    wait_until(lambda: "constraint reward model" in said.inner_text(), 120, "word of its training")
    wait_until(lambda: len(notebook.trace("kept/soft")["x"]) > 1, 240, "the first verdicts")
    assert "constraint reward model" not in page.locator(".wb-state").inner_text()
    for key in ("kept/hard", "kept/soft", "kept/soft_true"):
        assert notebook.trace(key)["visible"] is True
    soft = notebook.trace("kept/soft")["y"]
    assert any(0 < value < 1 for value in soft)  # probabilities, not rules

    def field(name):  # the first: the surrogate has an aggregation too, further below
        boxes = page.locator(".wb-controls .widget-inline-hbox")
        return (
            boxes.filter(has=page.locator(f".widget-label:text-is('{name}')"))
            .locator("select")
            .first
        )

    field("aggregation").select_option("all")
    wait_until(
        lambda: "all" in str(notebook.trace("mark/kept")["text"]), 60, "the mark of the change"
    )
    page.locator(".wb-controls").get_by_role("button", name="Task").click()
    field("curriculum").select_option("staged")
    wait_until(lambda: "staged" in str(notebook.trace("mark/kept")["text"]), 60, "the curriculum")
    changed = int(max(x for x in notebook.trace("mark/kept")["x"] if x is not None))
    wait_until(lambda: max(notebook.trace("level/1")["x"]) > changed, 60, "level 1")
    page.screenshot(path=ARTIFACTS / "instructions.png", full_page=True)

    notebook.button("Stop").click()
    wait_until(lambda: not notebook.button("Start").is_disabled(), 120, "the stopped run")
    page.get_by_role("tab", name="Rollouts").click()
    table = page.locator(".wb-rollouts .wb-table")
    wait_until(lambda: table.locator("tbody tr").count() > 0, 30, "rollouts")
    constraint = page.locator(".wb-prompt").inner_text()
    assert "<|user|>" in constraint
    verdicts = table.locator("tbody tr").first.inner_text()
    kinds = ("count", "first", "last", "contains", "avoids", "mark", "mood", "register", "topic")
    assert any(kind in verdicts for kind in (*kinds, "style"))
    page.screenshot(path=ARTIFACTS / "verdicts.png")
    assert page.errors == []
