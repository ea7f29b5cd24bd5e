"""Tables of completions, parsed as a browser would, to tell text from tags."""

from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

from workbench.panel import rollout_table as tables
from workbench.panel.rollout_table import chosen, filters_of, orders_of, table_html

ORDERED = {
    "as sampled": [0, 1, 2, 3],
    "reward, highest first": [0, 3, 1, 2],  # equal ones as sampled
    "reward, lowest first": [1, 2, 3, 0],
    "advantage, highest first": [0, 1, 2, 3],
    "advantage, lowest first": [3, 1, 2, 0],
    "length, longest first": [3, 2, 1, 0],
    "length, shortest first": [0, 1, 2, 3],
}
PASSING = {
    "all": [0, 1, 2, 3],
    "right": [0],
    "wrong": [1, 2, 3],
    "cut off": [3],
    "no answer": [1, 2],
    "advantage above 0": [0],
    "advantage below 0": [3],
}


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.texts, self.rows, self._cell = [], [], [], False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self._cell = True

    def handle_endtag(self, tag):
        self._cell = self._cell and tag not in ("td", "th")

    def handle_data(self, data):
        self.texts.append(data)
        if self._cell:
            self.rows[-1][-1] += data

    def column(self, name):
        head, *rows = self.rows
        return [row[head.index(name)] for row in rows]


@pytest.fixture
def table(hostile):
    """Four completions: right; one whose answer is empty; one that the checker can't read; one cut off."""
    return pd.DataFrame(
        {
            "prompt_index": 0,
            "prompt": "p",
            "completion": [f"{n} {hostile}" for n in range(4)],
            "answer": ["1+2", " ", hostile, "1+1"],
            "check": ["right: makes 3", "", "no expression can be read: odd", "makes 2, wanted 3"],
            "reward/short": [0.1, 0.1, 0.1, 0.1],
            "reward/correct": [1.0, 0.0, 0.0, 0.0],
            "reward/total": [1.1, 0.1, 0.1, 0.4],
            "advantage": [1.0, 0.0, 0.0, -1.0],
            "length": [4, 5, 6, 7],
            "truncated": [False, False, False, True],
            "tokens": [["a"] * n for n in (4, 5, 6, 7)],
            "advantages": [np.full(n, v) for n, v in ((4, 1.0), (5, 0.0), (6, 0.0), (7, -1.0))],
        }
    )


@pytest.fixture
def held_out(table):
    return table.drop(columns=["reward/total", "reward/short", "advantage", "advantages"])


@pytest.mark.parametrize("order", ORDERED)
def test_orders(table, order):
    assert chosen(table, "all", order).index.tolist() == ORDERED[order]
    assert list(ORDERED) == orders_of(table)


@pytest.mark.parametrize("which", PASSING)
def test_filters_with_their_counts(table, which):
    assert chosen(table, which, "as sampled").index.tolist() == PASSING[which]
    labels = {name: label for label, name in filters_of(table)}
    assert labels[which] == f"{which} ({len(PASSING[which])})" and list(labels) == list(PASSING)


def test_only_what_a_table_knows_is_offered(table, held_out):
    assert [n for n in orders_of(table) if n not in orders_of(table, held_out)] == [
        *("advantage, highest first", "advantage, lowest first")
    ]
    assert [name for _, name in filters_of(held_out)] == list(PASSING)[:5]
    assert ("wrong (3 | 1)", "wrong") in filters_of(table, held_out.iloc[[0, 3]])
    unlabelled = held_out.drop(columns="reward/correct")
    assert [name for _, name in filters_of(unlabelled)] == ["all", "cut off", "no answer"]
    assert "reward, highest first" not in orders_of(unlabelled)
    assert chosen(held_out, "all", "reward, highest first").index[0] == 0  # goes by the score
    old = table.drop(columns="check")
    assert chosen(old, "no answer", "as sampled").index.tolist() == [
        1
    ]  # empty, and no more is known


def test_an_empty_group_has_counts_and_a_sentence(table):
    assert filters_of(table.iloc[:0])[0] == ("all (0)", "all")
    assert "no completion of this prompt" in tables.summary_html(table.iloc[:0])
    assert "No completion passes this filter." in table_html(table.iloc[:0])


def test_the_checkers_view_stands_below_the_answer_inert_and_isolated(table, hostile):
    text = table_html(table.assign(check=[*table["check"][:3], f"says “{hostile}”"]))
    page = Page(text)
    assert page.column("answer")[:2] == ["1+2right: makes 3", " "]
    assert page.column("answer")[3] == f"1+1says “{hostile}”"
    assert not [tag for tag, _ in page.tags if tag in ("script", "img", "think")]
    assert all(attrs["dir"] == "auto" for tag, attrs in page.tags if tag == "bdi")
    assert text.count("<bdi") == text.count("</bdi>") == 2 * 4 + 3
    assert [attrs for tag, attrs in page.tags if tag == "div"].count({"class": "wb-check"}) == 3


def test_without_explanations_there_is_only_the_answer(table):
    page = Page(table_html(table.drop(columns="check")))
    assert page.column("answer")[0] == "1+2"
    assert "wb-check" not in str(page.tags)


def test_whether_it_is_right_stands_first_among_the_rewards(table):
    page = Page(table_html(table))
    assert page.rows[0] == [
        *("completion", "answer", "correct", "short", "total", "advantage", "tokens")
    ]
    assert page.column("correct") == ["✓ 1", "✗ 0", "✗ 0", "✗ 0"]
    assert page.column("short")[0] == "0.1" and page.column("tokens")[3] == "7 cut off"


def test_a_summary_counts_right_ones_and_distinct_answers(table, held_out):
    text = tables.summary_html(table)
    assert "1 of 4 right · mean reward 0.425 · mean length 5.5 tokens · 3 distinct answers" in text
    assert "1 of 4 right · mean length 5.5 tokens · 3 dist" in tables.summary_html(held_out)
    assert "1 distinct answer<" in tables.summary_html(table.iloc[:2])
    assert "right" not in tables.summary_html(held_out.drop(columns="reward/correct"))


def test_two_sides_show_less_and_share_the_scale(table, held_out, hostile):
    later = table.assign(advantages=[np.full(n, -4.0) for n in (4, 5, 6, 7)])
    text = tables.pair_html(
        {"step 0": table, hostile: later}, "wrong", "length, longest first", "advantage"
    )
    left, right = text.split('<section class="wb-side"')[1:]
    for side in (left, right):
        page = Page(f"<section {side}")
        assert page.rows[0] == ["completion", "answer", "reward", "tokens"]
        assert page.column("tokens") == ["7 cut off", "6", "5"]
        assert page.column("reward") == ["✗ 0.4", "✗ 0.1", "✗ 0.1"]
        assert not [tag for tag, _ in page.tags if tag in ("script", "img", "think")]
    assert "1 of 4 right · mean length 5.5 ·" in left and hostile not in right
    assert text.count("wb-keys") == 1 and "-4.00 (made rarer)" in text
    assert "wb-down wb-k2" in left and "wb-down wb-k7" not in left  # -1 of 4
    assert "wb-down wb-k7" in right
    assert Page(text).tags.count(("section", {"class": "wb-side", "aria-label": "step 0"})) == 1


def test_hostile_text_is_inert_on_both_sides(table, held_out, hostile):
    table = table.assign(tokens=[list(hostile) for _ in range(4)], length=len(hostile))
    table["advantages"] = [np.linspace(-1, 1, len(hostile)) for _ in range(4)]
    for choice in ("none", "advantage"):
        page = Page(tables.pair_html({"a": table, "b": table}, "all", "as sampled", choice))
        assert not [tag for tag, _ in page.tags if tag in ("script", "img", "think")]
        assert not [a for _, a in page.tags if any(name.startswith("on") for name in a)]
        assert all(attrs["dir"] == "auto" for tag, attrs in page.tags if tag == "bdi")


def test_a_side_without_the_column_says_so_and_stays_plain(table, held_out):
    text = tables.pair_html({"a": held_out, "b": table}, "all", "as sampled", "advantage")
    left, right = text.split('<section class="wb-side"')[1:]
    assert "No advantage here" in left and "wb-up" not in left
    assert "No advantage here" not in right and "wb-up" in right
    both = tables.pair_html({"a": held_out, "b": held_out}, "all", "as sampled", "advantage")
    assert both.count("No advantage here") == 1 and "wb-up" not in both


def test_a_group_alone_has_summary_legend_and_table(table):
    text = tables.group_html(table, "right", "as sampled", "advantage")
    assert text.index("1 of 4 right") < text.index("made rarer") < text.index("<table")
    assert len(Page(text).rows) == 2


def test_the_look_has_a_rule_for_what_is_drawn():
    from workbench.panel.style import CSS

    for name in (".wb-check", ".wb-sides", ".wb-side", ".wb-up", ".wb-down", ".wb-k7", ".wb-t7"):
        assert f"{name} " in CSS
    assert "dashed #E69F00" in CSS.split(".wb-down")[1].split("}")[0]


def test_hostile_reward_names_are_escaped(table):
    text = table_html(table.rename(columns={"reward/correct": "reward/<script>"}))
    assert "<script>" not in text and "&lt;script&gt;" in text
    assert "✓" not in text and "✗" not in text  # no checker's verdict, so none is shown


def noted(table, *notes):
    """Three completions with a reward that says something of each."""
    return table[:3].assign(**{"reward/constraints": 0.5, "note/constraints": [*notes]})


def test_what_a_reward_says_of_a_completion_stands_below_its_value_in_parts_that_stay_whole(table):
    table = noted(table, "count 1, mood 0.93", "count 0, mood –", "")
    page = Page(table_html(table))
    head, *rows = page.rows
    at = head.index("constraints")
    assert head.count("constraints") == 1
    assert [row[at] for row in rows] == ["0.5count 1, mood 0.93", "0.5count 0, mood –", "0.5"]
    parts = [text for text in page.texts if text.startswith(("count", "mood"))]
    assert parts == ["count 1,", "mood 0.93", "count 0,", "mood –"]
    cells = [attrs["class"] for tag, attrs in page.tags if tag == "td"]
    assert [cells[at + len(head) * row] for row in range(3)] == ["wb-note"] * 3
    assert cells.count("wb-note") == 3


def test_a_hostile_note_is_inert_and_isolated(table, hostile):
    table = noted(table, f"count 1, {hostile}", hostile, "a, b")
    page = Page(table_html(table))
    assert not [tag for tag, _ in page.tags if tag in ("script", "img", "think")]
    assert hostile in page.texts
    isolated = [attrs for tag, attrs in page.tags if tag == "bdi"]
    assert len(isolated) == 11 and all(attrs["dir"] == "auto" for attrs in isolated)


def test_notes_may_wrap_and_have_room():
    from workbench.panel.style import CSS

    assert ".wb-table td.wb-note { white-space: normal;\n  overflow-wrap: anywhere }" in CSS
    assert ".wb-table td.wb-note { min-width: 140px }" in CSS
    assert ".wb-part { display: inline-block }" in CSS
