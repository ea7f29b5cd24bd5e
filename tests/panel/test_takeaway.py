"""Code, link and report: kept current for the page, shown as text where there is no anywidget."""

import pytest

from workbench.panel import takeaway
from workbench.panel.takeaway import Takeaway
from workbench.recipe import Recipe
from workbench.variants import WorkbenchError


class Desk:
    """What a Takeaway needs of the panel, noted down."""

    def __init__(self, tmp_path):
        self.recipe, self.said, self.path = Recipe(beta=0.25), [], tmp_path / "report.html"

    def guard(self, action):
        def call(*_):
            try:
                action()
            except WorkbenchError as error:
                self.said.append(f"error: {error}")

        return call

    def wanted(self):
        if self.recipe is None:
            raise WorkbenchError("All reward weights are 0.")
        return self.recipe

    def report(self):
        self.path.write_text("<p>page</p>")
        return self.path


@pytest.fixture
def desk(tmp_path):
    return Desk(tmp_path)


def make(desk):
    return Takeaway(desk.guard, desk.wanted, desk.report, desk.said.append)


def test_parameters_at_their_defaults_are_left_out_of_the_code():
    full = Recipe(
        objective="rl2ml",
        objective_args={"alpha": 1.5, "estimator": "zero_sum"},
        task_args={"numbers": 3, "largest": 12},
        rewards={"correct": 1.0, "learned": 0.0},
    )
    short = takeaway.lean(full)
    assert short.objective_args == {"alpha": 1.5} and short.task_args == {"largest": 12}
    assert short.variant("objective") is full.variant("objective")
    assert takeaway.lean(short) == short and "numbers" not in short.to_code()


def test_the_page_holds_the_present_code_and_link(desk):
    taken = make(desk)
    taken.refresh(reportable=False)
    page = taken.buttons
    assert "beta=0.25" in page.code and not page.reportable
    assert Recipe.from_link(page.link) == desk.recipe
    desk.recipe = Recipe(objective="maxrl")
    taken.refresh(reportable=True)
    assert "maxrl" in page.code and page.reportable


def test_a_recipe_that_is_refused_is_not_copied_but_explained(desk):
    taken = make(desk)
    desk.recipe = None
    taken.refresh(reportable=False)
    assert taken.buttons.code == taken.buttons.link == ""
    taken._heard(None, {"kind": "refused"}, [])
    assert desk.said == ["error: All reward weights are 0."]


def test_the_report_is_sent_to_the_page_that_asked(desk, monkeypatch, wait):
    taken, sent = make(desk), []
    monkeypatch.setattr(
        taken._page, "send", lambda content, buffers=(): sent.append((content, buffers))
    )
    taken._heard(None, {"kind": "report"}, [])
    wait(lambda: sent)
    assert sent == [({"kind": "report"}, [b"<p>page</p>"])]
    wait(lambda: desk.said[-1] == f"The report is in {desk.path}.")


def test_a_report_that_fails_closes_the_waiting_tab(desk, monkeypatch, wait):
    taken, sent = make(desk), []
    monkeypatch.setattr(taken._page, "send", lambda content, buffers=(): sent.append(content))

    def broken():
        raise WorkbenchError("There is no run yet; press Start.")

    taken._report = broken
    taken._heard(None, {"kind": "report"}, [])
    wait(lambda: sent == [{"kind": "failed"}])
    wait(lambda: desk.said[-1] == "error: There is no run yet; press Start.")


def test_what_the_page_copied_is_said(desk):
    taken = make(desk)
    taken._heard(None, {"kind": "copied", "what": "Copy link"}, [])
    assert "copied as a link" in desk.said[-1]
    taken._heard(None, {"kind": "shown", "what": "Copy code"}, [])
    assert "beta=0.25" in taken.text.value and taken.text.layout.display == ""


def test_without_anywidget_the_text_is_shown_and_the_report_written(desk, monkeypatch):
    monkeypatch.setattr(takeaway, "missing", lambda: "no anywidget")
    taken = make(desk)
    code, link, report = taken.buttons.children
    taken.refresh(reportable=False)
    assert report.disabled
    code.click()
    assert "import workbench as wb" in taken.text.value
    link.click()
    assert taken.text.value.startswith("workbench:")
    taken.refresh(reportable=True)
    report.click()
    assert desk.path.read_text() == "<p>page</p>" and str(desk.path) in desk.said[-1]
