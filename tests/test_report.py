"""The report page is parsed, so that escaped text and live tags can't be confused."""

from html.parser import HTMLParser

import pandas as pd
import pytest

from workbench import report


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.texts = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.texts.append(data)


@pytest.fixture
def run():
    metrics = pd.DataFrame(
        {
            "eval/pass@1": [0.25, None, 0.5],
            "eval/pass@8": [0.9, None, 0.6],
            "train/entropy": [None, 2.0, 1.0],
        }
    )
    return "a", metrics, pd.DataFrame()


def test_before_after_takes_the_first_and_last_evaluation(run):
    table = report.before_after([run]).set_index("metric")
    assert table.loc["pass@1", ["before", "after", "ratio"]].tolist() == [0.25, 0.5, 2.0]
    assert table.loc["pass@8", "ratio"] == pytest.approx(2 / 3)
    assert table.loc["entropy", "steps"] == "1 to 2"


def test_before_after_of_a_run_evaluated_once_says_so(run):
    table = report.before_after([("a", run[1].iloc[:1], run[2])])
    assert table.empty and "Nothing" in report.table_html(table)


def test_the_page_is_self_contained_and_holds_recipe_and_table(run):
    text = report.report_html([run], title="t", recipes={"a": "objective: maxrl"})
    page = Page(text)
    assert not [
        attrs for tag, attrs in page.tags if tag in ("script", "link", "img") and "src" in attrs
    ]
    assert sum("plotly.js v" in part for part in page.texts) == 1
    assert "objective: maxrl" in page.texts and "2.000" in page.texts


def test_hostile_text_stays_text(run):
    hostile = "<img src=x onerror=alert(1)></pre><script>alert(2)</script>"
    rollouts = pd.DataFrame(
        {"prompt_index": [0], "prompt": [hostile], "completion": [hostile], "check": [hostile],
         "reward/correct": [1.0]}
    )  # fmt: skip
    clean = Page(report.report_html([run]))
    page = Page(
        report.report_html(
            [(hostile, *run[1:])], title=hostile, notes=hostile,
            recipes={hostile: hostile}, rollouts={hostile: rollouts},
        )
    )  # fmt: skip
    scripts = [sum(tag == "script" for tag, _ in p.tags) for p in (clean, page)]
    assert scripts[0] == scripts[1]
    assert not [tag for tag, _ in page.tags if tag == "img"]
    assert page.texts.count(hostile) >= 5


def test_rollouts_show_a_few_completions_of_a_few_prompts():
    table = pd.DataFrame(
        [
            {"prompt_index": p, "prompt": f"p{p}", "completion": f"p{p} c{c}", "reward/x": 0.5}
            for p in range(6)
            for c in range(5)
        ]
    )
    texts = Page(report.rollouts_html(table)).texts
    assert "check" not in texts
    checked = Page(report.rollouts_html(table.assign(check="makes 3, wanted 4"))).texts
    assert checked.index("completion") < checked.index("check") < checked.index("reward/x")
    assert checked.count("makes 3, wanted 4") == 12
    assert [text for text in texts if " c" in text] == [
        f"p{p} c{c}" for p in range(4) for c in range(3)
    ]
