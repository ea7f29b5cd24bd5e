"""The demo with a toy model: two arms, a table, one self-contained page."""

import pytest

from workbench import demo
from workbench.variants import WorkbenchError


@pytest.fixture
def toy_demo(toy_world, monkeypatch):
    small = {
        "model": toy_world,
        "prompts_per_step": 2,
        "group_size": 2,
        "max_new_tokens": 4,
        "eval_prompts": 2,
        "lora_rank": 2,
    }
    real = demo.demo_recipe
    monkeypatch.setattr(demo, "demo_recipe", lambda *args: real(*args).replace(**small))


def test_the_demo_trains_both_arms_and_writes_its_page(toy_demo, tmp_path, capsys):
    page = demo.run_demo(tmp_path / "demo", steps=2)
    printed = capsys.readouterr().out
    for word in ("base", *demo.ARMS, "pass@1", "pass@4", "pass@16", "pass@64", str(page)):
        assert word in printed
    text = page.read_text()
    assert "<script src" not in text and "Plotly.newPlot" in text
    for arm in demo.ARMS:
        assert arm in text
        assert (tmp_path / "demo" / arm / "metrics.jsonl").is_file()
    with pytest.raises(WorkbenchError, match="holds a demo already"):
        demo.run_demo(tmp_path / "demo", steps=2)


def test_the_arms_differ_in_the_objective_only():
    one, two = (demo.demo_recipe(objective) for objective in demo.ARMS)
    assert set(one.diff(two)) == {"name", "objective"}
    assert one.model == "tiny-strong" and one.task == "countdown"
    assert one.eval_samples >= max(demo.KS)
