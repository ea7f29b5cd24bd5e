"""The reward of instruction following: every verdict by the right judge, and counted as the recipe says."""

import json
from types import SimpleNamespace

import pandas
import pytest
import torch

from workbench.objectives import OBJECTIVES
from workbench.recipe import Recipe
from workbench.rewards import REWARDS, compute, compute_detailed
from workbench.rewards.constraints import constraints, total
from workbench.tasks import make_task
from workbench.tasks.demands import Constraint
from workbench.tasks.ifeval import checkers
from workbench.tasks.instructions import row_of
from workbench.tasks.lines import Chain
from workbench.variants import WorkbenchError

TASK = make_task("instructions")
MOOD = Constraint("mood", {"mood": "sad"}, "Sound sad.")
COUNT = Constraint("count", {"count": 4}, "Use 4 words.")
TOPIC = Constraint("topic", {"topic": "sea"}, "Speak of the sea.")
MARK = Constraint("mark", {"mark": "!"}, "End with !")


def row(*some):
    return row_of(Chain("Write a note for Anna.", tuple(some)), 0, len(some))


class Judge:
    """Writes down what it is asked, and gives a verdict for each answer's first word."""

    def __init__(self, **verdicts):
        self.known, self.asked = verdicts, []

    def verdicts(self, constraints, answers):
        self.asked += zip(constraints, answers, strict=True)
        return [self.known[answer.split()[0].strip(".")] for answer in answers]


def rollouts(rows, completions):
    group = len(completions) // len(rows)
    return SimpleNamespace(
        P=len(rows), G=group, B=len(completions), rows=rows, completions=completions,
        prompts=[""] * len(rows), logprobs_BT=torch.zeros(len(completions), 1),
    )  # fmt: skip


def think(*answers):
    return [f"<think>so</think>{answer}" for answer in answers]


# --- from verdicts to a reward ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("verdicts", "mean", "every", "product"),
    [
        ([1.0, 0.5, 0.0], 0.5, 0.0, 0.0),
        ([1.0, 0.5], 0.75, 1.0, 0.5),  # one half counts as kept
        ([1.0, 0.49], 0.745, 0.0, 0.49),
        ([0.8, 0.5, 0.5], 0.6, 1.0, 0.2),
        ([1.0, 1.0, 1.0], 1.0, 1.0, 1.0),
        ([], 0.0, 0.0, 0.0),
    ],
)
def test_the_ways_of_counting_by_hand(verdicts, mean, every, product):
    found = [total(verdicts, way) for way in ("mean", "all", "product")]
    assert found == pytest.approx([mean, every, product])


def test_hard_ones_go_by_rule_and_soft_ones_by_the_model():
    judge = Judge(the=0.8, gray=0.2)
    made = rollouts([row(MOOD, COUNT, TOPIC)], think("the gray wave sits.", "gray wave sits."))
    found = constraints(made, TASK, constraint_model=judge)
    assert found.values_PG[0].tolist() == pytest.approx([(0.8 + 1 + 0.8) / 3, (0.2 + 0 + 0.2) / 3])
    assert judge.asked == [
        ("Sound sad.", "the gray wave sits."),
        ("Speak of the sea.", "the gray wave sits."),
        ("Sound sad.", "gray wave sits."),
        ("Speak of the sea.", "gray wave sits."),
    ]


def test_rules_alone_leave_soft_constraints_out_and_ask_no_model():
    judge = Judge()
    rows = [row(MOOD, COUNT, MARK), row(MOOD, TOPIC)]
    made = rollouts(rows, think("the gray wave sits.", "moss!", "gray.", "wave."))
    found = constraints(made, TASK, scorer="rules", constraint_model=judge)
    assert found.values_PG.tolist() == [[0.5, 0.5], [0.0, 0.0]]  # nothing counts in the second
    assert judge.asked == [] and found.notes[0] == "mood –, count 1, mark 0"
    assert constraints(made, TASK, scorer="rules").values_PG.tolist() == found.values_PG.tolist()


def test_the_model_alone_judges_hard_constraints_too_and_no_rule_is_asked(monkeypatch):
    judge = Judge(the=0.8)
    monkeypatch.setattr(type(TASK), "rules", lambda *_: 1 / 0)
    made = rollouts([row(COUNT, MOOD)], think("the wave"))
    found = constraints(made, TASK, scorer="model", constraint_model=judge)
    assert found.values_PG[0].tolist() == pytest.approx([0.8])
    assert judge.asked == [("Use 4 words.", "the wave"), ("Sound sad.", "the wave")]


def test_a_gold_answer_goes_by_rule_whoever_judges():
    gold = {
        "instruction_id_list": ["light"],
        "kwargs": [None],
        "constraint": ["42"],
        "prompt": "6 times 7?",
    }
    made = rollouts([gold], think(r"\boxed{42}", r"\boxed{41}"))
    for scorer in ("mixed", "rules", "model"):
        found = constraints(made, TASK, scorer=scorer, constraint_model=Judge())
        assert found.values_PG.tolist() == [[1.0, 0.0]]


def test_binary_verdicts_are_cut_at_one_half_before_they_are_counted():
    judge = Judge(the=0.5, gray=0.49)
    made = rollouts([row(MOOD, COUNT)], think("the gray wave sits.", "gray."))
    for way, wanted in (("mean", [1.0, 0.0]), ("product", [1.0, 0.0]), ("all", [1.0, 0.0])):
        found = constraints(made, TASK, soft="binary", aggregation=way, constraint_model=judge)
        assert found.values_PG.tolist() == [wanted]
    found = constraints(made, TASK, aggregation="product", constraint_model=judge)
    assert found.values_PG[0].tolist() == pytest.approx([0.5, 0.0])


MALFORMED = [
    "<think>the gray wave sits.",
    "<think>a</think>",
    "a</think>b</think>the gray wave sits.",
    "gray wave",
]


@pytest.mark.parametrize("scorer", ["mixed", "rules", "model"])
@pytest.mark.parametrize("bad", MALFORMED)
def test_a_malformed_completion_keeps_nothing_and_is_shown_to_no_judge(scorer, bad):
    judge = Judge(the=0.9)
    made = rollouts([row(MOOD, COUNT)], [bad, *think("the gray wave sits.")])
    found = constraints(made, TASK, scorer=scorer, constraint_model=judge)
    assert found.values_PG[0, 0] == 0 and found.values_PG[0, 1] > 0.8
    assert all(answer == "the gray wave sits." for _, answer in judge.asked)
    assert found.notes[0] == ("mood –, count 0" if scorer == "rules" else "mood 0, count 0")


def test_a_policy_that_does_not_think_is_judged_by_all_it_writes():
    made = rollouts([row(COUNT)], ["the gray wave sits.", "gray"])
    assert constraints(made, TASK).values_PG.tolist() == [[1.0, 0.0]]


def test_numbers_and_notes_by_hand():
    judge = Judge(the=0.75, gray=0.25)
    rows = [row(MOOD, COUNT), row(TOPIC)]
    made = rollouts(rows, think("the gray wave sits.", "gray wave", "the moss", "the wave"))
    found = constraints(made, TASK, constraint_model=judge)
    assert found.values_PG.tolist() == [[0.875, 0.125], [0.75, 0.75]]
    assert found.numbers == {
        "hard": 0.5,
        "soft": (0.75 + 0.25 + 0.75 + 0.75) / 4,
        "kind/mood": 0.5,
        "kind/count": 0.5,
        "kind/topic": 0.75,
        "level/2": 0.5,
        "level/1": 0.75,
    }
    assert found.notes == ["mood 0.75, count 1", "mood 0.25, count 0", "topic 0.75", "topic 0.75"]


def test_soft_constraints_without_a_model_are_told_and_hard_ones_need_none():
    made = rollouts([row(COUNT), row(MOOD)], think("gray.", "gray."))
    with pytest.raises(
        WorkbenchError, match=r"no constraint reward model; train one \(labelling.fit\)"
    ):
        constraints(made, TASK)
    assert constraints(rollouts([row(COUNT)], think("gray.")), TASK).values_PG.tolist() == [[0.0]]
    # Where every completion is malformed there is nothing to judge.
    assert constraints(rollouts([row(MOOD)], ["<think>"]), TASK).values_PG.tolist() == [[0.0]]


def test_a_recipe_hands_its_choices_and_the_model_to_the_reward_alone():
    recipe = Recipe(
        task="instructions",
        rewards={"constraints": 1.0, "length": 0.0},
        reward_args={"constraints": {"aggregation": "product", "refresh_every": 5, "pairs": "far"}},
    )
    judge = Judge(the=0.5)
    functions = recipe.reward_functions({"constraint_model": judge, "other": 1})
    assert functions["length"] is REWARDS["length"]
    made = rollouts([row(MOOD, TOPIC)], think("the wave"))
    found = compute_detailed({"constraints": functions["constraints"]}, made, TASK)
    assert found.values["constraints"].tolist() == [[0.25]]
    assert found.numbers["constraints/soft"] == 0.5 and found.notes == {
        "constraints": ["mood 0.5, topic 0.5"]
    }


# --- hard constraints on real text -------------------------------------------------------------------------

HARD = [  # ids, arguments, texts: those of the published data, counts as integers
    ("keywords:frequency", {"keyword": "boat", "frequency": 2, "relation": "at least"}),
    ("keywords:forbidden_words", {"forbidden_words": ["rope", "lamp"]}),
    ("length_constraints:number_words", {"num_words": 8, "relation": "less than"}),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "boat"},
    ),
    ("detectable_format:number_bullet_lists", {"num_bullets": 2}),
    ("detectable_format:title", {}),
    ("startend:end_checker", {"end_phrase": "That is all."}),
    ("startend:quotation", {}),
    ("punctuation:no_comma", {}),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}),
]
ANSWERS = [
    "A boat, and a boat.",
    "The boat.\n\nBoat and rope. That is all.",
    "* boat\n* lamp",
    "<<The boat>> P.S. boat boat boat boat boat boat boat boat",
    '"boat. That is all."',
    "boat\n\nboat boat boat boat boat boat boat boat boat boat, boat",
]


@pytest.fixture(params=["jsonl", "parquet"])
def published(request, tmp_path):
    """A file with a row for every hard constraint and one with all, in the published form."""
    names = sorted({name for _, given in HARD for name in given})

    def one(number, some):
        texts = [f"Rule {number}.{i}" for i in range(len(some))]
        return {
            "prompt": f"Tell story {number}. " + "".join(f"{text}. " for text in texts),
            "instruction_id_list": [kind for kind, _ in some],
            "kwargs": [dict.fromkeys(names) | given for _, given in some],
            "constraint": texts,
        }

    rows = [one(n, [some]) for n, some in enumerate(HARD)] + [one(99, HARD), one(100, HARD[::-1])]
    file = tmp_path / f"rows.{request.param}"
    if request.param == "jsonl":
        file.write_text("\n".join(map(json.dumps, rows)))
    else:  # through pandas, twice, as such files are often mended
        pandas.DataFrame(rows).to_parquet(file)
        pandas.read_parquet(file).to_parquet(file)
    return str(file)


def verdict(kind, given, answer):
    """What lm-eval's own rule says."""
    checker = checkers()[kind](kind)
    checker.build_description(**given)
    return bool(answer.strip() and checker.check_following(answer))


def test_the_hard_reward_is_lm_evals_verdict_on_the_same_text(published):
    task = make_task("instructions", source=published, checked=True, eval_share=0.3)
    known = dict(HARD)
    seen = []
    for split in ("train", "eval"):
        for each in task.dataset(split):
            kinds = each["instruction_id_list"]
            made = rollouts([each], think(*ANSWERS))
            values_PG = compute({"constraints": constraints}, made, task)["constraints"]
            for answer, value in zip(ANSWERS, values_PG[0].tolist(), strict=True):
                wanted = [verdict(kind, known[kind], answer) for kind in kinds]
                assert value == pytest.approx(sum(wanted) / len(kinds)), (kinds, answer)
                seen.append((tuple(kinds), value))
    assert len(seen) == 12 * len(ANSWERS)
    for kind in known:  # each rule says yes to some of the answers and no to others
        assert {value for kinds, value in seen if kinds == (kind,)} == {0.0, 1.0}, kind


def test_a_response_that_keeps_all_hard_constraints_gets_1(published):
    task = make_task("instructions", source=published, checked=True, eval_share=0.3)
    some = dict(next(iter(task.dataset("train"))))
    kept = [
        c
        for c in HARD
        if c[0] in ("keywords:frequency", "startend:end_checker", "punctuation:no_comma")
    ]
    some |= {
        "instruction_id_list": [kind for kind, _ in kept],
        "kwargs": [given for _, given in kept],
        "constraint": ["x"] * 3,
    }
    made = rollouts([some], think("A boat is a boat. That is all.", "A boat, a boat. That is all."))
    for way, second in (("mean", 2 / 3), ("all", 0.0), ("product", 0.0)):
        found = constraints(made, task, aggregation=way)
        assert found.values_PG[0].tolist() == pytest.approx([1.0, second])


@pytest.mark.parametrize("objective", ["rloo", "grpo", "dr_grpo", "maxrl"])
def test_a_group_with_equal_rewards_gets_zero_advantages(objective):
    judge = Judge(the=0.37, gray=0.9)
    answers = think(
        *["the gray wave sits."] * 4, *["gray.", "the moss.", "gray wave sits now.", "gray."]
    )
    made = rollouts([row(MOOD, COUNT, TOPIC)] * 2, answers)
    values_PG = compute({"c": lambda r, t: constraints(r, t, constraint_model=judge)}, made, TASK)[
        "c"
    ]
    assert len(set(values_PG[0].tolist())) == 1 < len(set(values_PG[1].tolist()))
    advantages_PG = OBJECTIVES[objective](values_PG)
    assert (
        torch.allclose(advantages_PG[0], torch.zeros(4), atol=1e-6)
        and advantages_PG[1].abs().max() > 0.01
    )
