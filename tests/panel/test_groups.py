"""The tab Groups: support by hand, whom it names, and when it reads again."""

import re
import time

import numpy as np
import pandas as pd
import pytest

from workbench.panel import groups
from workbench.panel.groups import GroupsView, comparable, movers, supports
from workbench.recipe import Recipe
from workbench.support import Support
from workbench.variants import WorkbenchError

BASE, LATER, NOW = [4, 0, 8, 0], [5, 0, 0, 1], [8, 3, 0, 0]


@pytest.fixture
def view():
    return GroupsView(lambda action: lambda *_: action())


@pytest.fixture
def run(fake_run):
    """A run of groups of 4 that was evaluated three times on four prompts, with 8 samples."""
    made = fake_run(Recipe(group_size=4, eval_samples=8, eval_prompts=4), started=False)
    made._rows = [made._row(step) for step in range(11)]
    made.counts["groups"] = {step: [0, 4, 2, min(step, 4)] for step in range(1, 11)}
    made.counts["eval"] = {0: BASE, 5: LATER, 10: NOW}
    made._events = [{"step": 6, "time": 0.0, "kind": "update", "text": "beta <b>", "changes": {}}]
    return made


def plain(text):
    """The text of some HTML, tags as blanks."""
    return re.sub(r"\s+", " ", re.sub("<[^>]*>", " ", text))


def test_support_of_every_evaluation_by_hand():
    found = supports(np.array([BASE, LATER, NOW]))
    assert found == [Support(2, 0, 0, 2), Support(1, 1, 1, 1), Support(1, 1, 1, 1)]


def test_the_newest_step_and_the_support_in_words(view, run):
    view.show(run)
    told = plain(view.groups.value)
    assert "Step 10 : 4 groups of 4 2 all right, 1 none right 1 mixed (25 %)" in told
    assert "all right no signal none right no signal" in told and "Only these teach" in told
    assert "<b>" not in told and "beta &lt;b&gt;" in told  # what changed, inert
    told = plain(view.support.value)
    assert "step 0 (base) against step 10" in told
    assert "solved by the base 1 25 % preserved 1 25 % shrunk" in told
    assert "not solved by it 1 25 % expanded 1 25 % out" in told
    for ratio in ("SRR 50.0 %", "NDR 50.0 %", "SDS 50.0 %", "NSCR 0.0 %"):
        assert ratio in told
    assert "0 of 8 right rules out, at 95 %, only a chance of success above 37.4 %" in told
    assert view.support.value.count("<polyline") == 4


def test_those_that_crossed_are_named_first(view, run):
    before, now = np.array([0, 1, 30, 5, 2, 2]), np.array([3, 40, 0, 0, 2, 1])
    assert movers(before, now) == [0, 1] and movers(now, before) == [2, 3, 5]
    assert movers(before, now, most=1) == [0]
    view.show(run)
    told = plain(view.problems.value)
    assert "Gained right of 8 #1 0 → 3 expanded #0 4 → 8 Lost right of 8 #2 8 → 0 shrunk" in told
    assert view.button.layout.display == ""


def test_their_texts_are_read_when_asked(view, run, wait, monkeypatch, hostile):
    monkeypatch.setattr(
        groups, "problem_texts", lambda recipe: [f"problem {i} {hostile}" for i in range(4)]
    )
    with pytest.raises(WorkbenchError, match="press Start"):
        view.read()
    view.show(run)
    view.button.click()
    wait(lambda: "problem 1" in view.problems.value)
    wait(lambda: not view.button.disabled)
    assert "<script>" not in view.problems.value and 'dir="auto"' in view.problems.value
    assert view.button.layout.display == "none"


def test_the_texts_of_a_task_in_the_order_of_the_evaluation():
    recipe = Recipe(eval_prompts=3)
    rows = recipe.make_task().dataset("eval")
    found = groups.problem_texts(recipe)
    assert len(found) == 3 and all(str(rows[i]["target"]) in found[i] for i in range(3))


def test_other_rewards_may_tell_apart_what_is_right_or_wrong_alike(view, run):
    run.recipe = run.recipe.replace(rewards={"correct": 1.0, "length": 0.1})
    view.show(run)
    told = plain(view.groups.value)
    assert "no signal" not in told and "none right" in told
    assert "Other rewards than correct are paid here" in told


def test_what_is_not_there_is_one_sentence(view, run, fake_run):
    assert plain(view.groups.value).strip() == "No run yet; press Start."
    empty = fake_run(Recipe(), started=False)
    view.show(empty)
    assert "appear with the first step" in view.groups.value
    assert "nothing to say of its support" in view.support.value
    empty._rows = [empty._row(0), empty._row(1)]
    view.refresh()
    assert "doesn't count right completions" in plain(view.groups.value).replace("&#x27;", "'")
    run.counts["eval"] = {0: BASE}
    view.show(run)
    assert "after the second evaluation" in view.support.value and view.problems.value == ""
    run.counts["eval"] = {0: BASE, 5: BASE}
    view.show(run)
    assert "Not one held-out problem has changed yet" in view.problems.value
    assert view.button.layout.display == "none"


def test_a_fork_of_other_sizes_leaves_out_what_can_t_be_compared(view, run):
    run.counts["groups"] = {1: [16, 3], 2: [3, 3], 3: [4, 0]}
    run.counts["eval"] = {0: [64, 1], 5: [3, 3, 3, 3], 10: [3, 3, 0, 0]}
    frame = pd.DataFrame([[64, 1, None, None], [3, 3, 3, 3], [3, 3, 0, 0]]).astype("Int64")
    assert comparable(frame, 8).tolist() == [False, True, True]
    assert comparable(frame.iloc[[0, 0]], 8).tolist() == [False, False]
    run.successes = lambda of: (
        frame if of == "eval" else pd.DataFrame([[16, 3], [3, 3]], index=[1, 2])
    )
    view.show(run)
    assert "Steps up to 1 had groups of another size" in view.groups.value
    assert "step 1 (the first one comparable)" in view.support.value


def test_nothing_is_read_again_until_there_is_more(view, run):
    asked = []
    successes = run.successes
    run.successes = lambda of="groups": asked.append(of) or successes(of)
    view.show(run)
    assert asked == ["groups", "eval"]
    view.refresh()
    assert asked == ["groups", "eval"]
    run._rows.append(run._row(11))
    run.counts["groups"][11] = [4, 4, 4, 4]
    view.refresh()
    assert asked == ["groups", "eval", "groups"] and "Step 11" in plain(view.groups.value)
    run._rows += [run._row(step) for step in range(12, 16)]
    view.refresh()
    assert asked[3:] == ["groups", "eval"]
    other = [dict(row) for row in run._rows[:6]]  # rewound and gone on
    run._rows = other
    view.refresh()
    assert asked[5:] == ["groups", "eval"]


def test_a_long_run_costs_little(view, run):
    """10,000 steps: measured 6 to 10 ms; a tenth of a second would be a loop over all of them."""
    rng = np.random.default_rng(0)
    tables = {
        "groups": pd.DataFrame(rng.integers(0, 17, (10_000, 16)), index=range(1, 10_001)),
        "eval": pd.DataFrame(rng.integers(0, 65, (1_001, 64)), index=range(0, 10_001, 10)),
    }
    run.recipe, run.successes = Recipe(), lambda of: tables[of]
    view.show(run)
    costs = []
    for _ in range(5):
        view._drawn = {}
        started = time.process_time()
        view.refresh()
        costs.append(time.process_time() - started)
    assert min(costs) < 0.1
    assert len(view.groups.value) < 150_000 and len(view.support.value) < 40_000
