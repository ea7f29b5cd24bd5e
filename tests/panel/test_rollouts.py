"""The rollout view is parsed as a browser would, to tell text from tags."""

import os
import threading
from html.parser import HTMLParser

import pytest

from workbench.panel import rollouts
from workbench.recipe import Recipe
from workbench.variants import WorkbenchError


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.texts, self._cell = [], [], None
        self.rows = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self._cell = True

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self._cell = None

    def handle_data(self, data):
        self.texts.append(data)
        if self._cell:
            self.rows[-1][-1] += data


@pytest.fixture
def view(fake_run, wait):
    run = fake_run(Recipe(steps=12), seconds=0)
    wait(lambda: run.status == "finished")
    made = rollouts.RolloutView(lambda action: lambda *_: action())
    made.show(run)
    return made


def column(view, name):
    head, *rows = Page(view.text.value).rows
    return [row[head.index(name)] for row in rows]


def test_it_opens_at_the_newest_step_and_the_first_prompt(view):
    assert view.step.options == (5, 10) and view.step.value == 10
    assert [value for _, value in view.prompt.options] == [0, 1] and view.prompt.value == 0


def test_the_table_holds_rewards_advantages_and_marks(view):
    assert column(view, "correct") == ["✓ 1", "✗ 0", "✗ 0"]
    assert column(view, "total") == ["1", "0.1", "0.2"]
    assert column(view, "advantage") == ["+1", "+0", "-1"]
    assert column(view, "tokens") == ["5", "6", "7 cut off"]
    assert column(view, "answer") == ["0.0", "0.1", "0.2"]
    assert "1 of 3 right" in view.text.value


def test_another_prompt_and_another_step(view):
    view.prompt.value = 1
    assert column(view, "answer") == ["1.0", "1.1", "1.2"]
    view.step.value = 5
    assert view.prompt.value == 1 and column(view, "answer") == ["1.0", "1.1", "1.2"]
    assert view.follow.value is False  # looking back must not be snatched away


def test_order_and_filter(view):
    view.order.value = "length, longest first"
    assert column(view, "tokens") == ["7 cut off", "6", "5"]
    view.filter.value = "wrong"
    assert column(view, "tokens") == ["7 cut off", "6"]
    view.filter.value = "cut off"
    assert column(view, "tokens") == ["7 cut off"]
    view.filter.value = "right"
    assert column(view, "tokens") == ["5"]


def test_a_new_step_is_followed_only_on_the_newest(view):
    view._run.rollout_steps = [5, 10, 15]
    view.refresh()
    assert view.step.value == 15
    view.step.value = 5
    view._run.rollout_steps = [5, 10, 15, 20]
    view.refresh()
    assert view.step.value == 5 and view.step.options[-1] == 20
    view.follow.value = True
    assert view.step.value == 20


def test_hostile_text_is_inert_whole_and_isolated(view, hostile):
    page = Page(view.text.value)
    assert not [tag for tag, _ in page.tags if tag in ("script", "img", "think")]
    assert f"<think>try 0.0</think>{hostile}" in page.texts
    assert column(view, "completion")[1] == f"<think>try 0.1</think>{hostile}"
    isolated = [attrs for tag, attrs in page.tags if tag == "bdi"]
    assert len(isolated) == 7 and all(attrs["dir"] == "auto" for attrs in isolated)
    assert not [attrs for _, attrs in page.tags if any(name.startswith("on") for name in attrs)]


def test_without_rollouts_it_says_when_they_come(fake_run):
    view = rollouts.RolloutView(lambda action: lambda *_: action())
    view.show(fake_run(Recipe(), started=False))
    assert "appear while the run goes on" in view.text.value and view.step.options == ()


def test_a_second_run_without_rollouts_takes_the_place_of_one_that_has_some(view, fake_run):
    view.show(fake_run(Recipe(), started=False))
    assert "appear while the run goes on" in view.text.value
    assert view.step.options == () and view.prompt.options == ()


def with_tokens(table, thinking=2):
    """The same completions with a token for each letter, the first few of them thinking."""
    table = table.assign(tokens=[list(text) for text in table["completion"]])
    lengths = [len(pieces) for pieces in table["tokens"]]
    table["thinking"] = [[i < thinking for i in range(n)] for n in lengths]
    table["trained"] = table["thinking"]
    table["entropies"] = [[0.5 * (i % 3) for i in range(n)] for n in lengths]
    return table


def test_tokens_are_coloured_as_asked_and_order_filter_and_text_stay(view, hostile):
    table = with_tokens(view._run.rollouts())
    view._run.rollouts = lambda step=None, **more: table.assign(step=step)
    view.step.value = 5
    plain = view.text.value
    view.colour.value = "gradient"
    assert "thinking, trained" in view.text.value and column(view, "tokens")[0] == "5"
    shown = column(view, "completion")[1]
    assert shown == f"<think>try 0.1</think>{hostile}".replace("\u202e", "\\u202e")
    page = Page(view.text.value)
    assert not [tag for tag, _ in page.tags if tag in ("script", "img", "think")]
    assert [attrs["class"] for tag, attrs in page.tags if tag == "span"].count("wb-t-thinking") == 3
    view.filter.value = "right"
    view.colour.value = "entropy"
    assert len(column(view, "completion")) == 1 and "1.00 (undecided)" in view.text.value
    view.filter.value, view.colour.value = "all", "none"
    assert view.text.value == plain


def test_colours_that_a_file_has_no_columns_for_leave_the_text_and_say_why(view, hostile):
    view.colour.value = "gradient"
    assert "saved without their tokens" in view.text.value
    assert column(view, "completion")[1] == f"<think>try 0.1</think>{hostile}"


# ------------------------------------------------------------------ held-out, and two steps


def evaluated(view, *steps):
    """The view on the held-out batch, of which `steps` are saved."""
    view._run.held_out_steps = list(steps)
    view.batch.value = "held-out"
    return view


def sides(view):
    return [Page("<section " + part) for part in view.text.value.split("<section ")[1:]]


def titles(view):
    return [attrs["aria-label"] for tag, attrs in Page(view.text.value).tags if tag == "section"]


def test_the_held_out_batch_opens_with_the_base_beside_the_newest(view):
    evaluated(view, 0, 5, 10)
    assert (view.step.value, view.beside.value) == (10, 0)
    assert titles(view) == ["step 0, before training", "step 10"]
    for side in sides(view):
        assert side.rows[0] == ["completion", "answer", "reward", "tokens"]
        assert [row[2] for row in side.rows[1:]] == ["✓ 1", "✗ 0", "✗ 0"]
    assert view.filter.options[2] == ("wrong (2 | 2)", "wrong")
    view._run.held_out_steps = [0, 5, 10, 15]
    view.refresh()
    assert titles(view) == ["step 0, before training", "step 15"]


def test_any_two_evaluations_side_by_side_or_one_alone(view):
    evaluated(view, 0, 5, 10)
    view.beside.value = 5
    assert titles(view) == ["step 5", "step 10"]
    view.step.value = 0
    assert titles(view) == ["step 0, before training", "step 5"]
    view.beside.value = "none"
    assert titles(view) == [] and len(Page(view.text.value).rows) == 4
    view.batch.value = "training"
    assert titles(view) == []
    view.batch.value = "held-out"
    assert view.beside.value == "none"  # what was chosen stays


def test_before_the_second_evaluation_there_is_nothing_beside_the_first(view):
    evaluated(view, 0)
    assert view.beside.options == (("no other evaluation yet", "none"),) and view.beside.disabled
    assert titles(view) == []
    view._run.held_out_steps = [0, 5]
    view.refresh()
    assert titles(view) == ["step 0, before training", "step 5"] and not view.beside.disabled


def test_without_held_out_completions_it_says_so_and_training_comes_back(view):
    evaluated(view)
    assert "No held-out completions are saved" in view.text.value and view.step.options == ()
    view.batch.value = "training"
    assert view.step.value == 10 and len(Page(view.text.value).rows) == 4


def test_in_training_only_steps_with_the_same_prompt_are_offered(view):
    rollouts = view._run.rollouts

    def read(step=None, **more):  # at step 5 the second prompt is another one
        table = rollouts(step, **more)
        return (
            table.replace({"prompt": {table["prompt"].iloc[-1]: "other"}}) if step == 5 else table
        )

    view._run.rollouts = read
    view.show(view._run)
    assert [value for _, value in view.beside.options] == ["none", 5] and titles(view) == []
    view.beside.value = 5
    assert titles(view) == ["step 5", "step 10"]
    view.prompt.value = 1
    assert view.beside.options == (("no other step has it", "none"),) and titles(view) == []
    view.prompt.value = 0
    assert titles(view) == ["step 5", "step 10"]  # what was chosen stays


def test_order_and_filter_are_for_both_sides_and_outlast_a_batch_without_them(view):
    view.order.value, view.filter.value = "advantage, lowest first", "advantage above 0"
    assert column(view, "tokens") == ["5"]
    evaluated(view, 0, 10)
    assert (view.order.value, view.filter.value) == ("as sampled", "all")
    view.batch.value = "training"
    assert (view.order.value, view.filter.value) == ("advantage, lowest first", "advantage above 0")
    evaluated(view, 0, 10)
    view.order.value, view.filter.value = "length, longest first", "wrong"
    assert [[row[3] for row in side.rows[1:]] for side in sides(view)] == [["7 cut off", "6"]] * 2


def test_selections_stay_while_the_newest_step_is_followed(view):
    view.prompt.value, view.filter.value = 1, "wrong"
    view.order.value, view.colour.value = "length, longest first", "entropy"
    view._run.rollout_steps = [5, 10, 15]
    view.refresh()
    kept = (view.prompt, view.filter, view.order, view.colour)
    assert view.step.value == 15
    assert [w.value for w in kept] == [1, "wrong", "length, longest first", "entropy"]


def test_a_refresh_without_news_reads_and_sends_nothing(view):
    evaluated(view, 0, 5)
    reads, sent = [], []
    rollouts = view._run.rollouts
    view._run.rollouts = lambda *args, **more: reads.append(args) or rollouts(*args, **more)
    for widget in (view.text, view.step, view.beside, view.prompt, view.filter, view.order):
        widget.observe(sent.append)
    for _ in range(5):
        view.refresh()
    assert reads == sent == []
    view.filter.value = "wrong"  # another look at what is read already
    assert reads == []


def test_a_batch_written_anew_after_a_rewind_is_read_again(view, tmp_path):
    view._run.path = tmp_path
    (tmp_path / "rollouts").mkdir()
    file = tmp_path / "rollouts" / "000010.parquet"
    file.touch()
    view.refresh()
    table = view._run.rollouts()
    view._run.rollouts = lambda step=None, **more: table.assign(answer="anew")
    view.refresh()
    assert column(view, "answer")[0] == "0.0"
    os.utime(file, (1, 1))
    view.refresh()
    assert column(view, "answer")[0] == "anew"


def test_what_is_gone_just_now_is_said_and_tried_again(view):
    def gone(step=None, **more):
        raise WorkbenchError("The rollouts of step 15 are gone <now>.")

    rollouts, view._run.rollouts = view._run.rollouts, gone
    view._run.rollout_steps = [5, 10, 15]
    view.refresh()
    assert "are gone &lt;now&gt;" in view.text.value
    view._run.rollouts = rollouts
    view.refresh()
    assert view.step.value == 15 and len(Page(view.text.value).rows) == 4


def test_hostile_text_of_two_steps_is_inert_and_isolated(view, hostile):
    evaluated(view, 0, 10)
    page = Page(view.text.value)
    assert not [tag for tag, _ in page.tags if tag in ("script", "img", "think")]
    assert not [attrs for _, attrs in page.tags if any(name.startswith("on") for name in attrs)]
    isolated = [attrs for tag, attrs in page.tags if tag == "bdi"]
    assert len(isolated) == 1 + 2 * 6 and all(attrs["dir"] == "auto" for attrs in isolated)
    assert f"<think>try 0.0</think>{hostile}" in page.texts


def test_every_control_has_a_name_and_a_tooltip(view):
    controls = [
        *(view.batch, view.step, view.follow, view.beside, view.prompt),
        *(view.filter, view.order, view.colour),
    ]
    assert all(control.description and control.tooltip for control in controls)
    assert [c.description for c in controls] == [
        *("batch", "step", "newest", "beside", "prompt", "show", "order", "colour")
    ]


def test_callbacks_of_other_threads_and_the_drawer_do_not_mix(view):
    """A person clicks while the drawer refreshes and new steps come; nothing raises, the end is right."""
    evaluated(view, 0, 5)
    problems, stop = [], threading.Event()

    def draw():
        try:
            while not stop.is_set():
                view.refresh()
        except Exception as error:  # noqa: BLE001 -- asserted on below
            problems.append(error)

    drawer = threading.Thread(target=draw)
    drawer.start()
    for step in range(10, 40, 5):
        view._run.held_out_steps = [0, *range(5, step, 5)]
        view.filter.value = ("all", "wrong")[step % 2]
        view.prompt.value = step // 5 % 2
    stop.set()
    drawer.join()
    view.refresh()
    assert problems == [] and view.step.value == 30
