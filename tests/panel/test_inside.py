"""One step from inside: numbers that add up, bars to scale, prompts inert."""

import re

import pandas as pd
import pytest

from workbench.panel import inside
from workbench.panel.inside import InsideView
from workbench.recipe import Recipe


def guard(action):
    return lambda *_: action()


def batch(advantages, prompt="Make 24"):
    """One prompt's completions with these advantages; the positive ones are right."""
    return pd.DataFrame(
        [
            {"step": 5, "prompt_index": 0, "prompt": prompt, "reward/correct": float(a > 0),
             "reward/total": float(a > 0), "advantage": a, "length": 7}
            for a in advantages
        ]
    )  # fmt: skip


def test_the_terms_of_the_loss_add_up():
    known = {"train/loss": 0.5, "train/anchor_loss": 0.2, "train/beta": 0.1, "train/grad_norm": 2.0}
    rows = {name: (value, words) for name, value, words in inside.numbers(known, 1.0)}
    assert rows["surrogate loss"][0] == "+0.30000" and rows["anchor loss"][0] == "+0.20000"
    assert rows["loss"][0] == "+0.50000" and "beta 0.1" in rows["anchor loss"][1]
    assert rows["gradient norm"] == ("2.0000", "cut to 1")


def test_what_was_not_measured_is_left_out():
    names = [name for name, _, _ in inside.numbers({"train/kl": float("nan")}, 1.0)]
    assert names == []
    rows = inside.numbers({"train/loss": 1.0, "train/grad_norm": 0.5}, 1.0)
    assert ("anchor loss", "+0.00000", "no anchor: beta is 0") in rows
    assert rows[-1] == ("gradient norm", "0.5000", "under 1: not cut")


def test_bars_are_to_scale_up_for_positive_and_down_for_negative():
    text = inside.strip_html(batch([1.0, -0.5, 0.0]), longest=1.0)
    bars = re.findall(
        r'class="(wb-i-\w+)" x="\d+" y="([\d.]+)" width="\d+" height="([\d.]+)"', text
    )
    assert bars == [
        ("wb-i-up", "0.0", "26.0"),
        ("wb-i-down", "26.0", "13.0"),
        ("wb-i-down", "26.0", "1.0"),
    ]
    assert "completion 1: reward 1, right, advantage +1.000" in text


def test_a_group_without_signal_is_named_and_the_prompt_is_inert(hostile):
    text = inside.batch_html(batch([0.0, 0.0], prompt=hostile))
    assert "no signal" in text and "<script>" not in text and "<img" not in text
    assert "&lt;script&gt;" in text and "<bdi" in text


@pytest.fixture
def view():
    return InsideView(guard)


def test_before_any_batch_it_says_what_to_do(view):
    assert "press Step" in view.batch.value


def test_it_follows_the_newest_step_until_another_is_chosen(view, fake_run):
    run = fake_run(Recipe(steps=40), started=False)
    run._rows = [run._row(step) for step in range(11)]
    run.rollout_steps = [5]
    view.show(run)
    assert "Step 5: 2 prompts × 3 completions, 36 tokens" in view.numbers.value
    run.rollout_steps = [5, 10]
    view.refresh()
    assert view.step.value == 10 and "Step 10" in view.numbers.value
    view.step.value = 5
    assert not view.follow.value and "Step 5" in view.numbers.value
    view.refresh()
    assert view.step.value == 5
    view.follow.value = True
    assert view.step.value == 10


def test_a_drawn_step_is_not_read_again(view, fake_run):
    run = fake_run(Recipe(steps=40), started=False)
    run._rows, run.rollout_steps = [run._row(step) for step in range(6)], [5]
    view.show(run)
    run.rollouts = None  # would raise if it were called
    view.refresh()
    assert view.step.value == 5


def test_why_the_loss_is_what_it_is_stands_below_the_numbers(view, fake_run):
    run = fake_run(Recipe(steps=40), started=False)
    dead = {"train/loss": 0.0, "train/grad_norm": 0.0, "groups/zero_signal": 1.0}
    run._rows = [
        run._row(0),
        {"step": 1, **dead, "groups/solved_all": 0.0, "groups/solved_none": 1.0},
    ]
    run.rollout_steps = [1]
    view.show(run)
    assert '<div class="wb-warn">No group had signal: not one of the 16' in view.numbers.value
    run._rows += [{"step": 2, "train/loss": 1e-9, "train/grad_norm": 0.5}]
    run.rollout_steps = [1, 2]
    view.refresh()
    assert '<div class="wb-doc">A loss near 0' in view.numbers.value
    assert "wb-warn" not in view.numbers.value
