"""The geometry tab in a real JupyterLab: a run that leaves the envelope, and the way back."""

import pytest

from .jupyter import ARTIFACTS, WEBGL, chromium, opened, wait_until

CELLS = (
    "import workbench as wb\n"
    "good = wb.train(wb.Recipe(\n"
    "    task='arithmetic', objective='grpo', learning_rate=5e-4, steps=8, prompts_per_step=4,\n"
    "    probe_every=1, probe_prompts=8, probe_samples=4, checkpoint_every=1,\n"
    "    eval_every=8, eval_prompts=4, eval_samples=4), blocking=True)\n"
    "bad = good.fork(at=4, steps=10, learning_rate=1e-2, rewards={'collision': 1.0}).wait()",
    "ui = wb.panel(good, bad)\nui",
)
TRACES = """() => {
    const plots = [...document.querySelectorAll('.wb-curves .js-plotly-plot')];
    const plot = plots.find(p => (p.data || []).some(t => t.meta && t.meta.key === 'path/0'));
    if (!plot) return {};
    const size = list => list ? list.length : 0;
    const shown = plot.data.filter(t => t.visible === true);
    return Object.fromEntries(shown.map(t => [t.meta.key, [size(t.x), size(t.i)]]));
}"""

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(chromium() is None, reason="no Chromium is installed"),
]


@pytest.fixture
def notebook(tmp_path):
    """A notebook of CELLS, opened by a fresh JupyterLab."""
    with opened(tmp_path, *CELLS, more=WEBGL) as notebook:
        yield notebook


def test_a_run_that_left_the_envelope_is_brought_back(notebook):
    page = notebook.page
    notebook.run(0, seconds=300)
    notebook.run(1)
    page.get_by_role("tab", name="Geometry").click()
    wait_until(lambda: "path/1" in page.evaluate(TRACES), 120, "the paths")
    drawn = page.evaluate(TRACES)
    assert drawn["path/0"][0] == 9 and drawn["path/1"][0] == drawn["accuracy"][0] == 11
    assert drawn["body"][1] >= 4  # triangles
    assert page.locator(".wb-curves canvas").count() >= 1  # the scene is drawn by WebGL

    alarm = page.locator(".wb-alarm")
    wait_until(lambda: "Leaving the envelope at step" in alarm.inner_text(), 30, "the warning")
    assert "those of a reference run too" in page.locator(".wb-panel").inner_text()
    page.screenshot(path=ARTIFACTS / "geometry.png")
    back = page.get_by_role("button", name="Return to step")
    step = int(back.inner_text().split()[-1])
    assert 4 <= step < 10
    back.click()
    message = page.locator(".wb-message")
    wait_until(lambda: f"at step {step}; the controls" in message.inner_text(), 30, "the fork")
    wait_until(lambda: page.evaluate(TRACES).get("path/2", [0])[0] >= step + 2, 120, "its path")
    page.screenshot(path=ARTIFACTS / "returned.png")
    assert page.errors == []
