"""The strip is parsed as the page would; what it plans is held against the rules of the separations."""

import re
from html.parser import HTMLParser
from types import SimpleNamespace

import pandas as pd
import pytest

from workbench.panel import timeline
from workbench.panel.timeline import FLAT, Plan, Stage, Timeline, planned, strip_html
from workbench.recipe import Recipe
from workbench.separation import SEPARATIONS, stage, switched

BOTH, THINKING, ANSWER = (True, True), (True, False), (False, True)


class Marks(HTMLParser):
    """Every element of the picture (the legend's small ones left out): tag, class, x, width."""

    def __init__(self, text):
        super().__init__()
        self.found, self.attributes = [], {}
        picture, self.rest = text.split("</svg>", 1)
        self.feed(picture)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if tag == "svg":
            self.attributes = attrs
        self.found.append((tag, attrs.get("class", ""), attrs))

    def cells(self, kind):
        """Left and right edge, as steps of 100, of the cells of this class."""
        whole = timeline.WIDTH - timeline.LEFT - timeline.RIGHT
        ends = [
            (float(a["x"]), float(a["x"]) + float(a["width"]))
            for tag, name, a in self.found
            if tag == "rect" and name == kind and "fill-opacity" not in a
        ]
        return [tuple(round((x - timeline.LEFT) / whole * 100) for x in pair) for pair in ends]

    def count(self, kind):
        return sum(name == kind for _, name, _ in self.found)


def trained(*stages):
    """Metrics of steps that noted what they train, after step 0, which trains nothing."""
    gets = [None, *(gets for gets, steps in stages for _ in range(steps))]
    rows = [
        {"step": step}
        if one is None
        else {
            "step": step,
            "train/trains_thinking": float(one[0]),
            "train/trains_answer": float(one[1]),
        }
        for step, one in enumerate(gets)
    ]
    return pd.DataFrame(rows).set_index("step")


def events(*steps, field="separation"):
    rows = [
        {"step": s, "kind": "update", "text": "", "changes": {field: ["a", "b"]}} for s in steps
    ]
    return pd.DataFrame(rows, columns=["step", "kind", "text", "changes"])


def a_run(*stages, status="paused", **fields):
    steps = sum(count for _, count in stages)
    return SimpleNamespace(
        metrics=trained(*stages), events=events(), progress={"step": steps}, status=status,
        recipe=Recipe(**fields),
    )  # fmt: skip


@pytest.mark.parametrize("name", SEPARATIONS)
@pytest.mark.parametrize("rule", [{"share": 0.37}, {"switch": "step", "step": 5}, {"share": 0.0}])
def test_the_plan_is_what_the_rows_and_their_rule_say_of_every_step(name, rule):
    arguments = rule if SEPARATIONS[name].params else {}
    plan = Plan(23, name, arguments)
    complete = SEPARATIONS[name].defaults | arguments
    for start in (0, 4, 9, 22, 23, 30):
        got = {s: one.gets for one in planned(plan, start) for s in range(one.first, one.last + 1)}
        steps = range(start + 1, 24)
        assert got == {step: stage(name, switched(complete, step, 23)) for step in steps}


def test_a_flat_switch_is_open_until_it_has_come():
    plan = Plan(100, "start", {"switch": "flat"})
    assert planned(plan, 20) == [Stage(21, 100, THINKING, BOTH)]
    assert planned(plan, 20, turned=True) == [Stage(21, 100, BOTH)]
    made_longer = Plan(100, "start")  # after its switch, which is not taken back
    assert planned(made_longer, 20, turned=True) == [Stage(21, 100, BOTH)]
    assert planned(plan, 100) == []
    before = trained((THINKING, 20))
    assert FLAT in strip_html(plan, before)
    after = trained((THINKING, 20), (BOTH, 5))
    assert FLAT not in strip_html(plan, after)


def test_both_parts_before_a_change_are_no_switch_of_what_came_after_it():
    plan, metrics = Plan(100, "start", {"switch": "flat"}), trained((BOTH, 20))
    assert FLAT not in strip_html(plan, metrics)
    assert FLAT in strip_html(plan, metrics, since=21)  # asked for, not yet taken up
    assert FLAT in strip_html(plan, trained((BOTH, 20), (THINKING, 1)), events(21))


def test_a_frozen_answerer_leaves_the_answer_without_gradient():
    assert planned(Plan(10, "joint", answerer="initial")) == [Stage(1, 10, THINKING)]
    start = Plan(10, "start", {"switch": "flat"}, answerer="initial")
    assert planned(start) == [Stage(1, 10, THINKING)]  # the same before and after: nothing is open


def test_what_is_done_comes_from_the_metrics_in_stages():
    found = timeline.done(trained((BOTH, 5), (THINKING, 1), (ANSWER, 4)))
    assert [(s.first, s.last, s.gets) for s in found] == [
        (1, 5, BOTH), (6, 6, THINKING), (7, 10, ANSWER),
    ]  # fmt: skip
    assert all(stage.done for stage in found)
    assert timeline.done(None) == timeline.done(pd.DataFrame({"train/kl": [1.0]})) == []
    assert timeline.done(trained()) == timeline.done(trained((BOTH, 3)).iloc[:1]) == []


def test_cells_stand_where_their_steps_are_solid_when_done_and_light_when_planned():
    marks = Marks(
        strip_html(Plan(100, "start", {}), trained((BOTH, 10), (THINKING, 20)), events(11))
    )
    assert marks.cells("wb-s-thinking") == [(0, 10), (10, 30)]
    assert marks.cells("wb-s-answer") == [(0, 10)]
    assert marks.cells("wb-s-thinking wb-s-plan") == [(30, 50), (50, 100)]
    assert marks.cells("wb-s-answer wb-s-plan") == [(50, 100)]
    assert marks.count("wb-s-now") == marks.count("wb-s-diamond") == 1


def test_an_open_switch_fades_in_what_will_come_and_out_what_will_go(monkeypatch):
    text = strip_html(Plan(100, "start", {"switch": "flat"}))
    opacities = [float(x) for x in re.findall(r'wb-s-answer"[^>]*fill-opacity="([\d.]+)"', text)]
    assert len(opacities) == timeline.FADES and opacities == sorted(opacities)
    assert f">{FLAT}</text>" in text and Marks(text).cells("wb-s-open") == [(0, 100)]
    late = strip_html(Plan(100, "start", {"switch": "flat"}), trained((THINKING, 80)))
    assert f">{FLAT}</text>" not in late  # too narrow for the words: the legend has them
    assert FLAT in Marks(late).rest
    monkeypatch.setattr(timeline, "stage", lambda name, after: ANSWER if after else THINKING)
    text = strip_html(Plan(100, "start", {"switch": "flat"}))
    falling = [float(x) for x in re.findall(r'wb-s-thinking"[^>]*fill-opacity="([\d.]+)"', text)]
    assert falling == sorted(falling, reverse=True)


def test_it_says_all_of_it_in_words():
    text = strip_html(Plan(100, "start", {}), trained((BOTH, 10), (THINKING, 1)), events(11))
    marks = Marks(text)
    said = marks.attributes["aria-label"]
    assert marks.attributes["role"] == "img" and said.startswith(
        "Which tokens get gradient over 100"
    )
    assert "Trained: steps 1 to 10 thinking and answer; step 11 thinking." in said
    assert "Planned: steps 12 to 50 thinking; steps 51 to 100 thinking and answer." in said
    assert "The run is at step 11. Changed at step 11." in said
    for name in ("trained", "planned", "no gradient", "now", "changed"):
        assert f"</svg> {name}</span>" in marks.rest
    plain = Marks(strip_html(Plan(100))).rest
    assert "now" not in plain and "no gradient" not in plain and "changed" not in plain


def test_a_long_story_is_told_from_its_end():
    back_and_forth = [(BOTH, 1), (THINKING, 1)] * 20
    text = strip_html(Plan(100), trained(*back_and_forth))
    assert "Trained: … step 35 thinking and answer;" in text and "step 34 " not in text


def test_a_run_that_noted_nothing_says_so():
    metrics = pd.DataFrame({"train/kl": [0.0] * 11}, pd.RangeIndex(11, name="step"))
    text = strip_html(Plan(100), metrics)
    assert "What the first 10 steps trained was not noted. Planned: steps 11 to 100" in text


def test_a_run_longer_than_planned_is_shown_whole():
    marks = Marks(strip_html(Plan(10), trained((BOTH, 100))))
    assert marks.cells("wb-s-thinking") == [(0, 100)] and "Planned" not in marks.rest


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 10, 23, 100, 250, 999, 1000, 5000])
def test_ticks_are_few_and_begin_and_end_with_the_run(steps):
    found = timeline.ticks(steps)
    assert found[0] == 0 and found[-1] == steps and len(found) <= 7
    assert found == sorted(set(found))


def test_the_widget_follows_plan_and_run_and_is_sent_only_when_something_changed():
    strip, sent = Timeline(), []
    strip.root.observe(lambda change: sent.append(change["new"]), "value")
    strip.plan(Plan(100, "start", {}))
    assert len(sent) == 1 and "steps 1 to 50 thinking" in sent[0]
    run = a_run((THINKING, 3))
    strip.follow(run)
    strip.follow(run)
    assert len(sent) == 2 and "Trained: steps 1 to 3 thinking." in sent[1]
    strip.plan(Plan(200, "start", {}))
    assert "steps 4 to 100 thinking" in sent[-1]


def test_a_change_that_has_not_landed_is_not_taken_for_a_switch():
    run = a_run((BOTH, 3))
    strip = Timeline()
    strip.plan(Plan(100))
    strip.follow(run)
    strip.plan(Plan(100, "start", {"switch": "flat"}))
    assert FLAT in strip.root.value
    strip.plan(Plan(200, "start", {"switch": "flat"}))  # another length is no other separation
    run.metrics = trained((BOTH, 3), (THINKING, 1), (BOTH, 1))
    strip.follow(run)
    assert FLAT not in strip.root.value


def test_after_the_end_other_controls_show_what_a_new_run_would_do():
    strip = Timeline()
    strip.plan(Plan.of(Recipe(steps=4)))
    strip.follow(a_run((BOTH, 4), status="finished", steps=4))
    assert "Trained: steps 1 to 4 thinking and answer." in strip.root.value
    strip.plan(Plan(4, "answer_only"))
    assert "Planned: steps 1 to 4 answer." in strip.root.value
    assert "Trained" not in strip.root.value
    strip.plan(Plan(9, "answer_only"))  # more steps: Resume would go on
    assert "Trained: steps 1 to 4" in strip.root.value and "steps 5 to 9 answer" in strip.root.value
    strip.plan(Plan(4))
    assert "Trained: steps 1 to 4" in strip.root.value and "Planned" not in strip.root.value
