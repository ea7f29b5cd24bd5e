"""Instructions: rungs that hold exactly their constraints, verdicts one by one, files as published."""

import json
import random

import pandas
import pytest

from workbench.tasks import make_task
from workbench.tasks.demands import HELD_OUT, KINDS, SOFT, Constraint
from workbench.tasks.instructions import (
    Instructions,
    chains_in,
    constraints_of,
    is_hard,
    last_rungs,
    row_of,
    rungs,
    seed_of,
    shares,
)
from workbench.tasks.lines import Chain, compose, seeds
from workbench.variants import WorkbenchError

TASK = make_task("instructions", chains=60)
CHAIN = Chain(
    "Write a note for Anna.",
    (
        Constraint("mood", {"mood": "sad"}, "Sound sad."),
        Constraint("count", {"count": 4}, "Use 4 words."),
        Constraint("topic", {"topic": "sea"}, "Speak of the sea."),
    ),
)
ROW = row_of(CHAIN, 5, 3)


# --- rungs of the tiny world --------------------------------------------------------------------------


def test_level_k_holds_exactly_the_first_k_constraints():
    rows = list(TASK.dataset("train"))
    assert len(rows) == 60 * 5
    assert [(row["chain"], row["level"]) for row in rows[:6]] == [
        (0, 1), (0, 2), (0, 3), (0, 4), (0, 5), (1, 1),
    ]  # fmt: skip
    whole = {row["chain"]: row for row in rows if row["level"] == 5}
    for row in rows:
        last, level = whole[row["chain"]], row["level"]
        texts = last["constraint"]
        assert row["constraint"] == texts[:level]
        assert row["instruction_id_list"] == last["instruction_id_list"][:level]
        assert row["kwargs"] == last["kwargs"][:level]
        seed = next(s for s in seeds("train") if row["prompt"].startswith(s))
        assert row["prompt"] == " ".join([seed, *texts[:level]])
        assert not any(text in row["prompt"] for text in texts[level:])


def test_train_and_eval_share_no_prompt_and_evaluate_every_level():
    train, held_out = (list(TASK.dataset(split)) for split in ("train", "eval"))
    assert not {row["prompt"] for row in train} & {row["prompt"] for row in held_out}
    assert not {seed_of(row) for row in train} & {seed_of(row) for row in held_out}
    assert len(held_out) == len({row["chain"] for row in held_out}) == 128
    levels = [row["level"] for row in held_out]
    assert [levels.count(k) for k in range(1, 6)] == [26, 26, 26, 25, 25]
    assert len({row["prompt"] for row in train}) > 0.97 * len(train)


def test_every_kwargs_has_all_names_and_gives_back_what_was_drawn():
    rows = list(TASK.dataset("train"))
    names = set(rows[0]["kwargs"][0])
    assert names == {"count", "word", "mark", "mood", "register", "topic", "style"}
    whole = TASK.whole_chains("train")
    for row, last in ((row, whole[row["chain"]]) for row in rows):
        assert all(set(given) == names for given in row["kwargs"])
        assert constraints_of(row) == constraints_of(last)[: row["level"]]


def test_training_sees_no_held_out_kind_and_the_other_task_does():
    def kinds(task):
        return {kind for row in task.whole_chains("eval") for kind in row["instruction_id_list"]}

    assert kinds(TASK) == set(KINDS) - set(HELD_OUT)
    held_out = make_task("instructions", kinds="held_out")
    assert all(
        set(row["instruction_id_list"]) & set(HELD_OUT) for row in held_out.whole_chains("eval")
    )
    assert kinds(make_task("instructions", kinds="all")) == set(KINDS)
    longest = make_task("instructions", kinds="held_out", constraints=7, chains=3)
    assert [len(row["constraint"]) for row in longest.whole_chains("train")] == [7] * 3


def test_the_seed_decides_and_a_small_world_ends():
    again, other = (
        make_task("instructions", chains=60),
        make_task("instructions", chains=60, seed=1),
    )
    rows = [task.dataset("train")["prompt"][:] for task in (TASK, again, other)]
    assert rows[0] == rows[1] != rows[2]
    from workbench.tasks import instructions

    few = Instructions(chains=100_000, constraints=1)
    before, instructions.PATIENCE = instructions.PATIENCE, 3
    try:
        found = few.whole_chains("train")
    finally:
        instructions.PATIENCE = before
    prompts = [row["prompt"] for row in found]
    assert 100 < len(prompts) == len(set(prompts)) < 100_000


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"constraints": 8}, "constraints is 8; tiny chains have at most 7"),
        ({"constraints": 0}, "constraints is 0; give a whole number from 1 up"),
        ({"chains": 2.5}, "chains is 2.5"),
        ({"kinds": "held"}, "Unknown instructions.kinds 'held'.*Did you mean 'held_out'"),
        ({"eval_share": 1.5}, "eval_share"),
    ],
)
def test_wrong_settings_are_named(fields, message):
    with pytest.raises(WorkbenchError, match=message):
        make_task("instructions", **fields)


def test_the_prompt_is_one_message_with_the_instruction_under_it():
    assert TASK.messages({"prompt": " Do it. "}) == [{"role": "user", "content": "Do it."}]
    told = Instructions(instruction="Think first.")
    assert told.messages(ROW)[0]["content"].endswith("Speak of the sea.\n\nThink first.")


# --- verdicts -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "rules", "truths"),
    [
        ("the gray wave sits.", [None, True, None], [True, True, True]),
        ("gray wave sits.", [None, False, None], [True, False, True]),
        ("the golden moss sits.", [None, True, None], [False, True, False]),
        ("", [None, False, None], [False, False, False]),
    ],
)
def test_rules_check_hard_constraints_and_truth_knows_the_soft_ones(answer, rules, truths):
    assert TASK.rules(ROW, answer) == rules
    assert TASK.truths(ROW, answer) == truths
    thought = f"<think>the the</think>{answer}"
    assert TASK.score(ROW, thought) == pytest.approx(sum(truths) / 3)
    assert TASK.measures(ROW, thought) == pytest.approx(
        {
            "constraints": sum(truths) / 3,
            "hard": float(truths[1]),
            "soft": (truths[0] + truths[2]) / 2,
            "kind/mood": float(truths[0]),
            "kind/count": float(truths[1]),
            "kind/topic": float(truths[2]),
        }
    )


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("the gray wave sits.", "right: keeps all 3"),
        ("gray wave sits.", "keeps 2 of 3, not “Use 4 words.”"),
        ("moss", "keeps 0 of 3, not “Sound sad.”, “Use 4 words.”, “Speak of the sea.”"),
        ("", "no answer is given"),
    ],
)
def test_it_says_which_constraints_are_not_kept(answer, said):
    assert TASK.explain(ROW, f"<think>the gray wave sits.</think>{answer}") == said


def test_right_is_said_exactly_where_the_score_is_one():
    lines = [
        "the gray wave sits.",
        "gray wave sits.",
        "the golden wave sits.",
        "",
        "<b>",
        "the " * 9,
    ]
    for row in list(TASK.dataset("eval"))[:40]:
        for line in (*lines, compose(constraints_of(row), random.Random(0)) or ""):
            said = TASK.explain(row, line)
            assert said.startswith("right") == (TASK.score(row, line) >= 1.0), (line, said)


def test_thinking_is_no_answer():
    assert TASK.score(ROW, "<think>the gray wave sits.") == 0
    assert TASK.answer("<think>a</think> gray wave sits. ") == "gray wave sits."


def test_answers_are_the_same_by_their_words():
    assert TASK.same("Gray wave, sits!", "gray wave sits.")
    assert (
        not TASK.same("gray wave sits", "wave gray sits")
        and not TASK.same("", "")
        and not TASK.same(".", "!")
    )


def test_shares_leave_out_what_is_not_known():
    found = shares(CHAIN.constraints, [0.25, None, 0.75])
    assert found == {"constraints": 0.5, "soft": 0.5, "kind/mood": 0.25, "kind/topic": 0.75}
    assert shares(CHAIN.constraints, [None] * 3) == {}


# --- rungs, chains ----------------------------------------------------------------------------------------


def published(seed, *texts, kinds=None, kwargs=None):
    return {
        "prompt": seed + " " + "".join(f"{text}. " for text in texts),
        "instruction_id_list": list(kinds or ["soft"] * len(texts)),
        "kwargs": list(kwargs or [{}] * len(texts)),
        "constraint": list(texts),
    }


def test_rungs_are_cut_before_each_constraint():
    assert rungs(ROW) == [CHAIN.prompt(k) for k in range(4)]
    row = published("Tell a story.", "Be kind", "Use a rhyme")
    assert rungs(row) == [
        "Tell a story.",
        "Tell a story. Be kind.",
        "Tell a story. Be kind. Use a rhyme. ",
    ]
    for k, row in enumerate(TASK.whole_chains("train")):
        assert rungs(row) == [r["prompt"] if r else seed_of(row) for r in [None, *_rows_of(k)]]


def _rows_of(chain):
    return [row for row in TASK.dataset("train") if row["chain"] == chain]


def test_rungs_are_cut_right_where_a_text_stands_in_the_seed_or_in_another_constraint():
    row = published(
        "Say how to Be kind. Be kind yourself.", "Be kind", "Be kind to dogs", "Be kind"
    )
    assert rungs(row) == [
        "Say how to Be kind. Be kind yourself.",
        "Say how to Be kind. Be kind yourself. Be kind.",
        "Say how to Be kind. Be kind yourself. Be kind. Be kind to dogs.",
        row["prompt"],
    ]
    assert seed_of(row) == "Say how to Be kind. Be kind yourself."


def test_a_prompt_without_its_constraints_has_no_rungs():
    row = published("Tell a story.", "Be kind", "Use a rhyme")
    swapped = row | {"constraint": row["constraint"][::-1]}
    for wrong in (swapped, row | {"constraint": ["Be kind", "Be brief"]}):
        with pytest.raises(
            WorkbenchError, match="does not hold the text of its constraint '(Be|Use)"
        ):
            rungs(wrong)
        assert seed_of(wrong) == row["prompt"]


def test_chains_are_told_apart_where_they_branch():
    rows = [
        published("A.", "x"),  # of both chains: counts with the first
        published("A.", "x", "y", "z"),
        published("B.", "x", "y"),
        published("A.", "x", "w"),
        published("A.", "x", "y"),
        published("B.", "x"),
    ]
    assert [row["constraint"] for row in last_rungs(rows)] == [
        ["x", "y", "z"],
        ["x", "w"],
        ["x", "y"],
    ]
    assert chains_in(rows) == [0, 0, 2, 1, 0, 2]


# --- files of the published form ----------------------------------------------------------------------------

FREQUENCY = {"keyword": "boat", "frequency": 2, "relation": "at least"}
WORDS = {"num_words": 6, "relation": "less than"}


@pytest.fixture
def write(tmp_path):
    def to_file(rows, name="rows.jsonl"):
        file = tmp_path / name
        if name.endswith(".parquet"):
            pandas.DataFrame(rows).to_parquet(file)
        else:
            file.write_text("\n".join(json.dumps(row) for row in rows))
        return str(file)

    return to_file


def ladder(seed, texts, kinds, kwargs):
    return [
        published(seed, *texts[:k], kinds=kinds[:k], kwargs=kwargs[:k])
        for k in range(1, len(texts) + 1)
    ]


def many(count=24):
    texts = ("Name the boat twice", "Be kind", "Stay under 6 words")
    kinds = ("keywords:frequency", "soft", "length_constraints:number_words")
    return [
        row
        for number in range(count)
        for row in ladder(f"Tell story {number}.", texts, kinds, (FREQUENCY, {}, WORDS))
    ]


def test_all_rungs_of_a_chain_are_on_one_side(write):
    task = make_task("instructions", source=write(many()))
    train, held_out = (list(task.dataset(split)) for split in ("train", "eval"))
    assert len(train) + len(held_out) == 72 and len(held_out) >= 6
    seeds_of = [{seed_of(row) for row in rows} for rows in (train, held_out)]
    assert not seeds_of[0] & seeds_of[1]
    for rows in (train, held_out):
        assert sorted({row["chain"] for row in rows}) == list(range(len(rows) // 3))
        for row in rows:
            same = [r["level"] for r in rows if r["chain"] == row["chain"]]
            assert same == [1, 2, 3] and row["level"] == len(row["constraint"])
    last = task.whole_chains("train")
    assert len(last) == len(train) // 3 and all(row["level"] == 3 for row in last)


def test_rows_of_a_file_are_judged_by_rule_where_one_can(write):
    task = make_task("instructions", source=write(many()))
    assert not task.knows_truth
    row = next(row for row in task.dataset("train") if row["level"] == 3)
    assert task.rules(row, "Boat, boat.") == task.truths(row, "Boat, boat.") == [True, None, True]
    assert task.rules(row, "One boat was here for six days.") == [False, None, False]
    assert task.explain(row, "boat boat") == "keeps 2 of 2, 1 that rules can't check"
    assert task.measures(row, "boat boat") == {
        "constraints": 1.0, "hard": 1.0,
        "kind/keywords:frequency": 1.0, "kind/length_constraints:number_words": 1.0,
    }  # fmt: skip
    with pytest.raises(WorkbenchError, match="No rule can check the constraint 'Be kind'"):
        task.score(row, "boat boat")


def test_a_parquet_file_as_pandas_writes_it_gives_the_same_rows(write):
    """Integers that became floats beside a missing value, lists that became arrays, absent keys as null."""
    rows = many(8)
    first = FREQUENCY | {"frequency": 2.0, "keywords": None, "num_words": float("nan")}
    rows[0] = rows[0] | {"kwargs": [first]}
    plain, back = write(many(8)), write(rows, "again.parquet")
    found, again = (
        [constraints_of(row) for row in make_task("instructions", source=file).dataset("train")]
        for file in (plain, back)
    )
    assert found == again
    numbers = [
        v
        for row in again
        for c in row
        for k, v in c.arguments.items()
        if k in ("num_words", "frequency")
    ]
    assert numbers and {type(number) for number in numbers} == {int}


def test_a_file_of_soft_constraints_alone_can_be_read(write):
    rows = [
        row
        for n in range(20)
        for row in ladder(f"Do {n}.", ("Be kind", "Be odd"), ("soft", "tone"), ({}, None))
    ]
    task = make_task("instructions", source=write(rows))
    assert {len(row["constraint"]) for row in task.dataset("train")} == {1, 2}
    assert task.rules(task.dataset("train")[1], "So.") == [None, None]
    assert task.measures(task.dataset("train")[1], "So.") == {}


def row(**changes):
    return published("Tell.", "Be kind") | changes


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"constraint": ["Be kind", "x"]}, "must be lists of one length, 1 or more"),
        ({"instruction_id_list": [], "kwargs": [], "constraint": []}, "lists of one length, 1 or more"),
        ({"kwargs": "{}"}, "must be lists of one length"),
        ({"kwargs": ['{"num_words": 3}']}, "has the kwargs .*; give an object"),
        ({"constraint": [" "]}, "has the constraint ' '; give its text"),
        ({"constraint": [42]}, "has the constraint 42; give its text"),
        ({"instruction_id_list": ["length_constraints:number_words"]}, "num_words is missing"),
        (
            {"instruction_id_list": ["mood"]},
            "'mood', which is one of the tiny world's kinds and takes mood in its kwargs",
        ),
        (
            {"instruction_id_list": ["order"], "kwargs": [{"word": "moss"}]},
            "takes word and then in its kwargs",
        ),
    ],
)  # fmt: skip
def test_a_wrong_row_is_named_by_its_number(write, wrong, message):
    source = write([row(), row(), row(**wrong)])
    with pytest.raises(WorkbenchError, match=rf"^Row 3 of .*rows.jsonl.*{message}"):
        make_task("instructions", source=source).dataset("train")


def test_a_missing_column_is_named(write):
    source = write([{key: value for key, value in row().items() if key != "kwargs"}])
    with pytest.raises(WorkbenchError, match="Row 1 of .*Unknown column 'kwargs'"):
        make_task("instructions", source=source).dataset("train")


def test_kinds_of_the_tiny_world_may_stand_in_a_file_with_their_arguments(write):
    kinds, kwargs = ("count", "mood"), ({"count": 3}, {"mood": "sad"})
    rows = [
        r
        for n in range(12)
        for r in ladder(f"Do {n}.", ("Use 3 words", "Sound sad"), kinds, kwargs)
    ]
    task = make_task("instructions", source=write(rows))
    assert task.rules(task.dataset("train")[1], "gray wave sits") == [True, None]
    assert task.truths(task.dataset("train")[1], "gray wave sits") == [True, True]


def test_checked_sources_refuse_what_no_rule_can_check_and_know_the_truth(write):
    with pytest.raises(
        WorkbenchError, match="Row 2 of .*'soft', which no rule can check; set checked to false"
    ):
        make_task("instructions", source=write(many()), checked=True).dataset("train")
    hard = [row for row in many() if "soft" not in row["instruction_id_list"]]
    task = make_task("instructions", source=write(hard), checked=True)
    assert task.knows_truth and task.score(task.dataset("train")[0], "boat boat") == 1.0


def test_the_file_of_ifeval_itself_can_be_read(write):
    """It has no column `constraint`, and its prompts do not hold the constraints at their end."""
    rows = [
        {
            "key": n,
            "prompt": f"Write poem {n} without commas, and name the boat twice.",
            "instruction_id_list": ["punctuation:no_comma", "keywords:frequency"],
            "kwargs": [{}, FREQUENCY],
        }
        for n in range(20)
    ]
    task = make_task("instructions", source=write(rows), checked=True)
    found = task.dataset("train")[0]
    assert found["constraint"] == found["instruction_id_list"]
    assert [task.score(found, text) for text in ("boat, boat", "boat boat", "a, b")] == [
        0.5,
        1.0,
        0.0,
    ]


def test_mathematics_among_the_instructions_is_judged_and_has_no_rungs(write):
    light = [
        published(f"A class of 4{n} pupils. How many are 4{n} and 2?", f"4{n + 2}", kinds=["light"])
        | {"prompt": f"A class of 4{n} pupils. How many are 4{n} and 2? Not 4{n + 2} and one."}
        for n in range(6)
    ]
    task = make_task("instructions", source=write(many(12) + light), eval_share=0.3)
    rows = [row for row in task.dataset("train") if row["instruction_id_list"] == ["light"]]
    assert rows and is_hard("light") and is_hard("light_choice")
    for row in rows:
        assert seed_of(row) == row["prompt"]  # though the gold answer stands in it
        gold = row["constraint"][0]
        assert task.rules(row, rf"It is \boxed{{{gold}}}") == [True]
        assert task.rules(row, r"It is \boxed{1}") == [False]
    assert not any("light" in row["instruction_id_list"] for row in task.whole_chains("train"))
    assert all(len(rungs(row)) == 4 for row in task.whole_chains("train"))


def test_the_shipped_sample_is_of_the_published_form():
    from workbench.packaged import data_path

    source = str(data_path("tasks") / "instructions.sample.jsonl")
    task = make_task("instructions", source=source, eval_share=0.3)
    rows = [*task.dataset("train"), *task.dataset("eval")]
    assert len(rows) == 23 and {row["level"] for row in rows} >= {1, 2, 3, 4, 5}
    for row in task.whole_chains("train"):
        assert len(rungs(row)) == len(row["constraint"]) + 1


def test_kinds_are_hard_where_a_rule_can_check_them():
    assert [is_hard(k) for k in ("count", "mood", "soft", "punctuation:no_comma", "light", "style")] == [
        True, False, False, True, True, False,
    ]  # fmt: skip
    assert not any(is_hard(kind) for kind in SOFT)
