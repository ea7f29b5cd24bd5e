"""The rollout view is parsed as a browser would, to tell text from tags."""

from html.parser import HTMLParser

import pytest

from workbench.panel import rollouts
from workbench.recipe import Recipe


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
    view.sort.value = "length, longest first"
    assert column(view, "tokens") == ["7 cut off", "6", "5"]
    view.filter.value = "wrong"
    assert column(view, "tokens") == ["7 cut off", "6"]
    view.filter.value = "truncated"
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


def test_hostile_reward_names_are_escaped(view):
    table = view._run.rollouts().rename(columns={"reward/correct": "reward/<script>"})
    text = rollouts.table_html(table)
    assert "<script>" not in text and "&lt;script&gt;" in text
    assert "✓" not in text and "✗" not in text  # no checker's verdict, so none is shown


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
    view._run.rollouts = lambda step=None: table.assign(step=step)
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
    assert "saved without tokens and trained and thinking" in view.text.value
    assert column(view, "completion")[1] == f"<think>try 0.1</think>{hostile}"


def noted(view, *notes):
    """The rollouts of the view with a reward that says something of each completion."""
    table = view._run.rollouts()
    return table.assign(**{"reward/constraints": 0.5, "note/constraints": [*notes] * 2})


def test_what_a_reward_says_of_a_completion_stands_below_its_value_in_parts_that_stay_whole(view):
    table = noted(view, "count 1, mood 0.93", "count 0, mood –", "")
    page = Page(rollouts.table_html(table[table["prompt_index"] == 0]))
    head, *rows = page.rows
    at = head.index("constraints")
    assert head.count("constraints") == 1
    assert [row[at] for row in rows] == ["0.5count 1, mood 0.93", "0.5count 0, mood –", "0.5"]
    parts = [text for text in page.texts if text.startswith(("count", "mood"))]
    assert parts == ["count 1,", "mood 0.93", "count 0,", "mood –"]
    cells = [attrs["class"] for tag, attrs in page.tags if tag == "td"]
    assert [cells[at + len(head) * row] for row in range(3)] == ["wb-note"] * 3
    assert cells.count("wb-note") == 3


def test_a_hostile_note_is_inert_and_isolated(view, hostile):
    table = noted(view, f"count 1, {hostile}", hostile, "a, b")
    page = Page(rollouts.table_html(table[table["prompt_index"] == 0]))
    assert not [tag for tag, _ in page.tags if tag in ("script", "img", "think")]
    assert hostile in page.texts
    isolated = [attrs for tag, attrs in page.tags if tag == "bdi"]
    assert len(isolated) == 9 and all(attrs["dir"] == "auto" for attrs in isolated)


def test_notes_may_wrap_and_have_room():
    from workbench.panel.style import CSS

    assert ".wb-table td.wb-note { white-space: normal;\n  overflow-wrap: anywhere }" in CSS
    assert ".wb-table td.wb-note { min-width: 140px }" in CSS
    assert ".wb-part { display: inline-block }" in CSS
