"""Three ways to match an answer, and own column names."""

import pytest

from workbench.tasks import make_task
from workbench.variants import WorkbenchError


@pytest.mark.parametrize(
    ("match", "answer", "completion", "score"),
    [
        ("exact", "blue", "<think>hm</think> blue ", 1.0),
        ("exact", "light blue", "light  blue", 1.0),
        ("exact", "blue", "Blue", 0.0),
        ("exact", "blue", "It is blue", 0.0),
        ("number", "18", "She has 18.0 eggs", 1.0),
        ("number", "1,200 m", "it is 1200", 1.0),
        ("number", "18", "18 or 19", 0.0),
        ("number", "18", "eggs", 0.0),
        ("math", r"\frac{1}{2}", r"\boxed{0.5}", 1.0),
        ("math", "x+1", "1+x", 1.0),
        ("math", "x+1", "1-x", 0.0),
    ],
)
def test_match(match, answer, completion, score):
    row = {"prompt": "", "answer": answer}
    assert make_task("jsonl", match=match).score(row, completion) == score


def test_own_columns(tmp_path):
    path = tmp_path / "capitals.jsonl"
    lines = [f'{{"land": "L{i}", "city": "C{i}", "n": {i}}}\n' for i in range(20)]
    path.write_text("".join(lines))
    task = make_task("jsonl", source=str(path), prompt_column="land", answer_column="city")
    row = task.dataset("train")[0]
    assert task.messages(row) == [{"role": "user", "content": row["land"]}]
    assert task.score(row, row["city"]) == 1.0
    numbers = make_task(
        "jsonl", source=str(path), prompt_column="land", answer_column="n", match="number"
    )
    assert numbers.score(row, str(row["n"])) == 1.0


def test_the_sample_has_both_splits():
    task = make_task("jsonl")
    train, held = (task.dataset(split) for split in ("train", "eval"))
    assert len(train) + len(held) == 32 and len(held) >= 4
    assert not set(train["prompt"]) & set(held["prompt"])
    assert all(task.score(row, row["answer"]) == 1.0 for row in train)


def test_wrong_settings_are_refused(tmp_path):
    with pytest.raises(
        WorkbenchError, match=r"Unknown jsonl\.match 'numbr'.*Did you mean 'number'"
    ):
        make_task("jsonl", match="numbr")
    path = tmp_path / "a.jsonl"
    path.write_text('{"prompt": "a", "answer": "b"}\n')
    with pytest.raises(WorkbenchError, match=r"'answer' has no number"):
        make_task("jsonl", source=str(path), match="number").dataset("train")


@pytest.mark.parametrize(
    ("match", "one", "two", "same"),
    [
        ("exact", "a  b", "a b", True),
        ("exact", "a b", "A b", False),
        ("exact", "", "", False),
        ("number", "it is 1,000", "1000.0", True),
        ("number", "1", "2", False),
        ("number", "none", "none", False),
        ("math", "1/2", "0.5", True),
        ("math", "", "", False),
    ],
)
def test_answers_are_the_same_in_the_way_that_match_says(match, one, two, same):
    task = make_task("jsonl", match=match)
    assert task.same(one, two) is task.same(two, one) is same


@pytest.mark.parametrize(
    ("match", "answer", "completion", "said"),
    [
        ("exact", "light blue", "light  blue", "right: the reference is “light blue”"),
        ("exact", "blue", "Blue", "says “Blue”, the reference is “blue”"),
        ("number", "18", "18 or 19", "says “18 or 19”, the reference is 18"),
        ("number", "18", "She has 18.0 eggs", "right: the reference is 18"),
        ("math", "x+1", "1+x", "right: the reference is “x+1”"),
        ("math", "x+1", "<think>", "no answer is given"),
        ("exact", "blue", "b" * 10_000, f"says “{'b' * 40}…”, the reference is “blue”"),
    ],
)
def test_it_says_why(match, answer, completion, said):
    row, task = {"prompt": "", "answer": answer}, make_task("jsonl", match=match)
    assert task.explain(row, completion) == said
    assert said.startswith("right") == (task.score(row, completion) >= 1.0)
