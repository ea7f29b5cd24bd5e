"""An objective drawn by hand in a real JupyterLab, and the run that trains with it."""

import json

import pytest

from .jupyter import ARTIFACTS, chromium, opened, wait_until

CELLS = (
    "import workbench as wb\n"
    "recipe = wb.Recipe(objective='bernstein', steps=5000, prompts_per_step=4, eval_prompts=4,\n"
    "                   eval_samples=4, eval_every=1000)\n"
    "ui = wb.panel(recipe)\nui",
    "print(ui.run.recipe.objective_args['beta'])",
)

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(chromium() is None, reason="no Chromium is installed"),
]


@pytest.fixture
def notebook(tmp_path):
    """A notebook of CELLS, opened by a fresh JupyterLab."""
    with opened(tmp_path, *CELLS) as notebook:
        yield notebook


def drag(page, dot, upwards):
    """Take a handle and move it up by so many pixels, without letting go."""

    def taken():  # a figure or formula that arrives late may move the handle under the pointer
        page.mouse.up()
        box = dot.bounding_box()
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        page.mouse.down()
        return page.locator(".wb-h-held").count() == 1

    wait_until(taken, 30, "the handle to be taken")
    box = dot.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y - upwards, steps=5)


def drawn_as_wide_as_its_column(page):
    widths = page.evaluate(
        "() => ['.wb-curves', '.wb-curves .main-svg'].map("
        "(name) => document.querySelector(name)?.getBoundingClientRect().width)"
    )
    return None not in widths and abs(widths[0] - widths[1]) < 2


def test_a_dragged_handle_changes_the_objective_of_the_run(notebook):
    page = notebook.page
    notebook.run(0, seconds=120)
    page.wait_for_selector(".wb-handles svg", timeout=60_000)
    picture = page.locator(".wb-small-plots")
    wait_until(lambda: picture.count() == 1, 60, "the picture, once torch is loaded")
    wait_until(lambda: drawn_as_wide_as_its_column(page), 30, "the figure to fit its column")
    notebook.button("Start").click()
    wait_until(lambda: notebook.steps() >= 2, 240, "the first steps")

    text = page.locator(".wb-controls input[type=text]").first
    typed, drawn = text.input_value(), picture.inner_html()
    dots = page.locator(".wb-h-dot")
    drag(page, dots.nth(1), upwards=40)
    wait_until(lambda: picture.inner_html() != drawn, 30, "the picture to follow the hand")
    assert text.input_value() == typed  # held: nothing is asked of the run yet
    page.mouse.up()
    wait_until(lambda: text.input_value() != typed, 30, "the handle to count")
    wait_until(lambda: "beta" in str(notebook.trace("mark/pass")["text"]), 60, "its mark")

    second = float(text.input_value().split(",")[1])
    assert second > 2.0  # from 1.5, by 40 of 124 pixels of a scale of 4
    dots.nth(1).focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    lower = round(second - 0.2, 2)
    wait_until(lambda: f"{lower:g}" in text.input_value(), 30, "the keys to count")
    assert dots.nth(1).get_attribute("aria-valuenow") == f"{lower:g}"
    page.get_by_role("button", name="One handle more").click()
    wait_until(lambda: len(text.input_value().split(",")) == 5, 30, "the fifth handle")
    page.screenshot(path=ARTIFACTS / "drawn.png")

    notebook.button("Stop").click()
    wait_until(lambda: not notebook.button("Start").is_disabled(), 120, "the stopped run")
    notebook.run(1)
    printed = notebook.cell(1).locator(".jp-OutputArea-output").inner_text()
    shown = [f"{value:g}" for value in json.loads(printed)]
    assert shown == text.input_value().split(", ")
    assert page.errors == []
