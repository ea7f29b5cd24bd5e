"""The task questions: rows, true quality, votes, and questions of one's own that have no truth."""

import itertools
import json

import pytest

from workbench.packaged import data_path
from workbench.panel.bar import figures
from workbench.recipe import Recipe
from workbench.tasks import make_task
from workbench.tasks.places import places
from workbench.variants import WorkbenchError

TASK = make_task("questions")


@pytest.fixture
def own(tmp_path):
    path = tmp_path / "own.jsonl"
    lines = [json.dumps({"question": f"Why is number {i} odd?", "id": i}) for i in range(40)]
    path.write_text("\n".join(lines))
    return make_task("questions", source=str(path))


def test_rows_ask_about_places_and_hold_the_facts():
    row = TASK.dataset("eval")[0]
    assert places()[row["place"]] == (row["place"], row["climate"], row["terrain"])
    assert TASK.messages(row) == [{"role": "user", "content": row["question"]}]
    asked = {split: set(TASK.dataset(split)["question"]) for split in ("train", "eval")}
    assert len(asked["train"]) == 840 and len(asked["eval"]) == 120
    assert not asked["train"] & asked["eval"]


def test_score_is_the_fit_of_the_answer_and_never_of_the_thought():
    row = {"question": "?", "place": "Arvik"}  # wet and grassy
    right = "Take an umbrella and trainers."
    assert TASK.knows_truth
    assert TASK.score(row, f"<think>Arvik is hot and icy</think>{right}") == 1.0
    assert TASK.score(row, "<think>an umbrella and trainers</think>Take a hat.") == 0.0
    assert TASK.score(row, "<think>umbrella and trainers") == 0.0
    assert TASK.score(row, "<think></think>Take trainers.") == 0.5
    assert TASK.score(row, right) == 1.0
    assert TASK.answer(f"<think>so</think> {right} ") == right


@pytest.mark.parametrize(
    ("one", "two", "same"),
    [
        ("Take a coat and boots.", "boots, coat", True),
        ("Take a coat, water and boots.", "Take a coat and boots.", True),
        ("Take a coat.", "Take a coat and boots.", False),
        ("Take water and food.", "Take water and food.", False),
        ("", "", False),
    ],
)
def test_answers_are_the_same_where_they_name_the_same_items(one, two, same):
    assert TASK.same(one, two) is same


def test_questions_of_ones_own_keep_their_columns_and_have_no_truth(own):
    train, held_out = own.dataset("train"), own.dataset("eval")
    assert len(train) + len(held_out) == 40 and len(held_out) > 2
    assert set(train.column_names) == {"question", "id"}
    assert not set(train["id"]) & set(held_out["id"])
    assert not own.knows_truth
    with pytest.raises(WorkbenchError, match="no right answers to score against.*'learned'"):
        own.score(train[0], "<think></think>yes")
    assert (
        own.same("It  is.", "It is.") and not own.same("It is.", "it is") and not own.same("", "")
    )
    instructed = make_task("questions", source=own.source, instruction="Be brief.")
    assert instructed.messages(train[0])[0]["content"].endswith("odd?\n\nBe brief.")


def test_a_recipe_that_measures_correctness_without_truth_is_refused(own):
    fields = {"task": "questions", "task_args": {"source": own.source}}
    with pytest.raises(WorkbenchError, match=r"'correct' can't be measured.*learned"):
        Recipe(**fields)
    assert Recipe(**fields, rewards={"learned": 1.0}).make_task().source == own.source


def test_a_run_without_truth_goes_from_start_to_end(own, toy_recipe, tmp_path, capsys):
    import workbench as wb
    from workbench.progress import Bar

    recipe = toy_recipe.replace(
        task="questions",
        task_args={"source": own.source},
        rewards={r: w for r, w in toy_recipe.rewards.items() if callable(r)} | {"learned": 0.0},
        probe_every=3,
        probe_prompts=2,
        probe_samples=2,
    )
    with Bar(recipe.steps, show=False) as bar:
        run = wb.train(recipe, folder=tmp_path / "run", listeners=[bar])
        run.wait()
    metrics = run.metrics
    assert len(metrics) == recipe.steps + 1 and metrics["eval/entropy"].notna().sum() == 3
    assert not [column for column in metrics if "pass@" in column]
    assert metrics["reward/learned"].notna().sum() == recipe.steps
    assert all(probe.correct_B is None for probe in run.probes())
    assert "step 3" in capsys.readouterr().out
    assert "Curves" in run.report(tmp_path / "report.html").read_text(encoding="utf-8")
    assert figures(wb.panel(run).run) == []


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ('{"prompt": "x"}', "Unknown column 'question'"),
        ('{"question": " "}', "has an empty 'question'"),
        ("", "has no rows"),
        ("[1]", "is not a JSON object"),
    ],
)
def test_a_source_that_cant_be_used_is_named(tmp_path, lines, message):
    path = tmp_path / "bad.jsonl"
    path.write_text(lines)
    with pytest.raises(WorkbenchError) as caught:
        make_task("questions", source=str(path)).dataset("train")
    assert message in str(caught.value) and "bad.jsonl" in str(caught.value)


def test_wrong_fields_are_named():
    with pytest.raises(WorkbenchError, match="give a number between 0 and 1"):
        make_task("questions", eval_share=1.0)


def test_the_sample_file_is_what_the_task_gives():
    lines = data_path("tasks", "questions.sample.jsonl").read_text(encoding="utf-8").splitlines()
    rows = list(TASK.dataset("eval"))[:48]
    assert [json.loads(line) for line in lines] == rows


def test_what_else_it_can_tell_of_a_completion():
    task, row = make_task("questions"), {"place": "Arvik"}
    place = places()["Arvik"]
    good = f"<think>Arvik is {place.climate} and {place.terrain}</think>Take water, food and a map."
    assert task.measures(row, good) == {"facts": 1.0, "generic": 1.0}
    answer = f"</think>{place.climate} {place.terrain}"  # said in the answer, not thought
    assert task.measures(row, answer) == {"facts": 0.0, "generic": 0.0}
    assert make_task("questions", source="mine.jsonl").measures({}, good) == {}


@pytest.mark.parametrize(
    ("completion", "said"),
    [
        ("Take an umbrella and trainers.", "right: names umbrella and trainers"),
        (
            "Take an umbrella, a hat and trainers.",
            "names umbrella and trainers, and without need hat",
        ),
        ("Take trainers.", "names trainers, not umbrella"),
        ("Take a hat.", "names neither umbrella nor trainers, and without need hat"),
        (
            "Take water, food and money.",
            "names neither umbrella nor trainers, a list of things that no place calls for",
        ),
    ],
)
def test_it_says_which_items_are_named_and_what_the_thought_states(completion, said):
    row = {"question": "?", "place": "Arvik"}  # wet and grassy
    assert TASK.explain(row, completion) == f"{said}; the thought states 0 of 2 facts"
    thought = "<think>Arvik is wet and icy</think>"
    assert TASK.explain(row, thought + completion) == f"{said}; the thought states 1 of 2 facts"
    assert TASK.explain(row, "<think>never ends") == "no answer is given"


def test_right_is_said_exactly_where_the_score_is_one():
    row, names = (
        {"question": "?", "place": "Arvik"},
        ["umbrella", "trainers", "hat", "water", "map"],
    )
    for count in range(5):
        for words in itertools.permutations(names, count):
            text = f"<think>wet grassy</think>{' '.join(words)}"
            said = TASK.explain(row, text)
            assert said.startswith("right") == (TASK.score(row, text) >= 1.0), (text, said)


def test_of_questions_of_ones_own_nothing_is_said(own):
    assert own.explain(own.dataset("train")[0], "<think></think>yes") == ""
