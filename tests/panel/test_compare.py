"""The tab Compare with a shelf made by hand: the table, what joins it, and what is done to a run."""

import re
import threading
from pathlib import Path

import pytest

from workbench import comparing
from workbench.panel import compare
from workbench.panel.compare import CompareView, Shelf, line, table_html
from workbench.recipe import Recipe
from workbench.variants import WorkbenchError


def plain(text):
    """The text of some HTML, tags as blanks."""
    return re.sub(r"\s+", " ", re.sub("<[^>]*>", " ", text))


@pytest.fixture
def finished(fake_run):
    """Makes runs that were stopped by hand after `steps`."""

    def make(folder, steps=10, **fields):
        run = fake_run(Recipe(steps=steps, **fields), folder, started=False)
        run._rows = [run._row(step) for step in range(steps + 1)]
        run.status = "finished"
        return run

    return make


@pytest.fixture
def shelf(finished, monkeypatch):
    """Two runs on the shelf beside a folder that is none; a search waits for `shelf.go`."""
    runs = [finished("first", beta=0.1), finished("second <b>", objective="maxrl")]
    runs[1].tags = ("good",)
    go = threading.Event()
    go.set()

    def look():
        assert go.wait(5)
        kept = [(run.name, run) for run in runs if run.path is not None]
        return Shelf("runs", kept, {"odd": "it has <no> recipe."})

    monkeypatch.setattr(compare, "look", look)
    made = Shelf("runs", runs)
    object.__setattr__(made, "go", go)
    return made


@pytest.fixture
def tab(shelf, wait):
    """A tab that has looked at the shelf; errors land in `tab.errors`, what is added in `tab.added`."""
    errors, added = [], []

    def guard(action):
        def call(*_):
            try:
                action()
            except (WorkbenchError, OSError) as error:
                errors.append(str(error))

        return call

    made = CompareView(guard, added.append)
    made.errors, made.added = errors, added
    made.refresh()
    wait(lambda: not made.find.disabled)
    return made


def test_what_differs_and_what_came_of_it(finished):
    one = finished("one", rewards={"correct": 1.0}, seed=1)
    two = finished("two", rewards={"correct": 1.0, "format": 0.5}, seed=1, name="two")
    two.tags = ("good", "<i>")
    told = plain(table_html(comparing.table([one, two])))
    assert told.startswith(" run reward format pass@1 pass@4 entropy length KL")
    assert "one finished, 10 of 10 – 0.350 [0.250, 0.450] the best of all" in told
    assert "two finished, 10 of 10 good, &lt;i&gt; 0.5" in told
    assert "not over seeds" in told and "so it flatters" in told
    one._rows[5]["eval/pass@1"] = 0.9
    told = plain(table_html(comparing.table([one])))
    assert "0.350 [0.250, 0.450] best 0.900 at step 5 [0.200, 0.400]" in told
    nothing = finished("none", steps=1)
    nothing._rows = nothing._rows[:0]
    assert "none finished, 0 of 1 – – –" in plain(table_html(comparing.table([nothing])))


def test_parameters_go_by_their_own_names():
    labels = map(compare.label, ("rewards.majority_vote", "objective_args.alpha", "learning_rate"))
    assert list(labels) == ["reward majority vote", "alpha", "learning rate"]
    assert compare.label("reward_args.learned.reward_model") == "learned reward model"


def test_a_run_in_one_line():
    known = {
        "status": "stopped", "task": "countdown", "objective": "rloo", "step": 3, "steps": 9,
        "pass@1 first": 0.25, "pass@1 now": 0.5, "tags": "good, old",
    }  # fmt: skip
    said = line("a", known)
    assert said == "a · good, old · pass@1 0.250 → 0.500 · stopped · rloo · countdown"
    without = line("a", known | {"pass@1 first": None, "pass@1 now": None, "tags": ""})
    assert without == "a · stopped · rloo · countdown"


def test_the_panel_s_own_come_first_and_chosen_ones_join(tab, shelf, finished):
    assert "No run to compare yet" in tab.table.value and tab.house.layout.display == "none"
    assert [text for text, _ in tab.choice.options] == ["first", "second <b>"]
    told = plain(tab.found.value)
    assert "from runs" in told and "1 folder beside them" in told and "&lt;no&gt; recipe" in told
    own = finished("own")
    tab.show([own])
    assert "own" in tab.table.value and "first" not in tab.table.value
    tab.choice.value = tuple(shelf.runs)
    order = [plain(tab.table.value).index(name) for name in ("own", "first", "second &lt;b&gt;")]
    assert order == sorted(order) and [run for _, run in tab.one.options] == [own, *shelf.runs]
    assert "beta" in tab.table.value and "good" in tab.table.value
    tab.show([own, shelf.runs[0]])  # it is on the panel now, and so no longer to choose
    assert [run for _, run in tab.choice.options] == [shelf.runs[1]]
    assert tab.choice.value == (shelf.runs[1],)
    tab.show([own, *shelf.runs])
    assert "All runs that are kept in runs are this panel's already" in tab.found.value.replace(
        "&#x27;", "'"
    )
    assert tab.choice.options == () and tab.choice.layout.display == "none"


def test_it_looks_by_itself_once_and_again_when_asked(shelf, wait):
    shelf.go.clear()
    made = CompareView(lambda action: lambda *_: action(), print)
    assert made.choice.options == ()
    made.refresh()
    assert "Looking for runs" in made.found.value and made.find.disabled
    made.refresh()
    shelf.go.set()
    wait(lambda: not made.find.disabled)
    assert len(made.choice.options) == 2
    made.choice.value = (shelf.runs[1],)
    shelf.runs[0].path = None  # deleted elsewhere
    made.find.click()
    wait(lambda: len(made.choice.options) == 1)
    assert made.choice.value == (shelf.runs[1],)


def test_a_shelf_that_can_t_be_read_is_told_and_can_be_asked_again(tab, monkeypatch, wait):
    def broken():
        raise OSError("the disk is gone")

    monkeypatch.setattr(compare, "look", broken)
    tab.find.click()
    wait(lambda: tab.errors == ["the disk is gone"])
    wait(lambda: not tab.find.disabled)
    assert "No runs are kept in" in tab.found.value and tab.choice.layout.display == "none"


def test_chosen_runs_are_added_to_the_curves_without_holding_the_lock(tab, shelf):
    tab.add.click()
    assert tab.errors == ["Choose one run or several in the list first."]
    free = []

    def add(run):
        def other():  # as the drawer's thread, which comes with the panel's lock
            with tab._lock:
                free.append(run.name)

        thread = threading.Thread(target=other)
        thread.start()
        thread.join(5)
        tab.added.append(run)

    tab._add = add
    tab.choice.value = tuple(shelf.runs)
    tab.add.click()
    assert (
        tab.added == shelf.runs[::-1] and len(free) == 2
    )  # the first one last: it is then the current


def test_tags_and_names(tab, shelf, wait):
    first = shelf.runs[0]
    tab.buttons["tag"].click()
    assert tab.errors.pop().startswith("There is no run in the table yet")
    tab.choice.value = (first,)
    tab.buttons["tag"].click()
    assert tab.errors.pop() == "Write a tag beside the buttons first."
    tab.word.value = " fine "
    tab.buttons["tag"].click()
    assert first.tags == ("fine",) and "fine" in tab.table.value and tab.word.value == ""
    wait(lambda: not tab.find.disabled)
    assert "first is tagged fine." in tab.note.value
    tab.word.value = "fine"
    tab.buttons["untag"].click()
    assert first.tags == () and "fine" not in tab.table.value
    wait(lambda: not tab.find.disabled)
    tab.word.value = "other"
    tab.buttons["rename"].click()
    wait(lambda: not tab.find.disabled)
    assert first.name == "other" and tab.one.options[0][0] == "other"
    assert "first is now other." in tab.note.value
    wait(lambda: [text for text, _ in tab.choice.options] == ["other", "second <b>"])
    assert tab.choice.value == (first,)


def test_deleting_is_asked_twice(tab, shelf, wait):
    first, second = shelf.runs
    tab.choice.value = (first, second)
    delete = tab.buttons["delete"]
    delete.click()
    assert delete.description == "Really delete" and "Press again to delete first" in tab.note.value
    tab.one.value = second  # another run: from the beginning
    assert delete.description == "Delete" and tab.note.value == ""
    delete.click()
    tab.one.value = first
    delete.click()
    assert first.calls == second.calls == []
    delete.click()
    assert first.calls == ["delete"] and second.calls == []
    assert "first was deleted." in tab.note.value and delete.description == "Delete"
    wait(lambda: not tab.find.disabled)
    assert [run for _, run in tab.one.options] == [second] and "first" not in tab.table.value


def test_a_run_that_is_going_stays(tab, shelf):
    shelf.runs[0].status = "running"
    tab.choice.value = (shelf.runs[0],)
    tab.buttons["delete"].click()
    tab.buttons["delete"].click()
    assert tab.errors == ["first is going; it can be deleted once it is stopped."]
    assert shelf.runs[0].path == Path("runs/first")


def test_the_panel_s_own_run_is_deleted_only_by_a_panel_that_can_let_it_go(tab, finished):
    own, other = finished("own"), finished("other")
    tab.show([own, other])
    tab.buttons["delete"].click()
    assert "own is one of this panel's runs" in tab.errors[0] and own.calls == []
    gone = []
    tab._forget = gone.append
    tab.buttons["delete"].click()
    tab.buttons["delete"].click()
    assert gone == [own] and own.calls == ["delete"]
    assert [run for _, run in tab.one.options] == [other]


def test_nothing_is_drawn_again_until_something_has_changed(tab, shelf, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        compare, "table", lambda runs: drawn.append(len(runs)) or comparing.table(runs)
    )
    tab.choice.value = (shelf.runs[0],)
    tab.refresh()
    tab.refresh()
    assert drawn == [1]
    shelf.runs[0]._rows.append(shelf.runs[0]._row(11))
    tab.refresh()
    assert drawn == [1, 1]
    shelf.runs[0].recipe = shelf.runs[0].recipe.replace(beta=0.2)
    tab.refresh()
    assert drawn == [1, 1, 1]
    shelf.runs[0].path = None  # deleted in a cell
    tab.refresh()
    assert "No run to compare" in tab.table.value and tab.one.options == ()


def test_what_wb_runs_finds_is_the_shelf(toy_recipe, tmp_path, monkeypatch):
    from workbench.runs import train

    monkeypatch.setenv("WORKBENCH_RUNS", str(tmp_path))
    recipe = toy_recipe.replace(rewards={"length": 1.0, "correct": 0.0}, steps=1)
    run = train(recipe, folder=tmp_path / "a", blocking=True)
    (tmp_path / "odd").mkdir()
    found = compare.look()
    assert found.runs[0][1] is run and found.runs[0][0].startswith("a · pass@1 0")
    assert found.root == str(tmp_path) and "no recipe.yaml" in found.unreadable["odd"]
