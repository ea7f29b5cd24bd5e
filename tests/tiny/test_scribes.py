"""The corpus of lines: plans name what is heeded, and the line keeps all that the plan names."""

import random
from itertools import islice

import pytest

from workbench.tasks.base import after_thinking, before_answer
from workbench.tasks.demands import KINDS, Constraint, keeps, note
from workbench.tasks.lines import draw_chain, seeds
from workbench.tiny.scribe_card import MAX_NEW_TOKENS
from workbench.tiny.scribes import SCRIBES, Scribe, demonstration, writing
from workbench.tiny.tokenizer import LINES_WORDS, build_tokenizer
from workbench.variants import WorkbenchError

SCRIBE = SCRIBES["scribe"]


def heeded(constraints, plan):
    """The subset of the constraints, in order, whose notes make up the plan."""
    found, rest = [], plan
    for one in constraints:
        if rest == note(one) or rest.startswith(f"{note(one)} "):
            found.append(one)
            rest = rest[len(note(one)) :].lstrip()
    assert rest == "", plan
    return found


def test_a_plan_names_in_order_what_is_heeded_and_the_line_keeps_it():
    rng = random.Random(0)
    shares, kinds = [], set()
    for _ in range(600):
        chain = draw_chain(rng, "train", 5, "all")
        made = demonstration(SCRIBE, chain.prompt(5), chain.constraints, rng)
        assert made.messages == [{"role": "user", "content": chain.prompt(5)}]
        assert made.completion.startswith("<think>") and made.completion.count("</think>") == 1
        kept = heeded(chain.constraints, before_answer(made.completion))
        line = after_thinking(made.completion)
        assert all(keeps(one.kind, one.arguments, line) for one in kept)
        shares.append(len(kept) / 5)
        kinds |= {one.kind for one in kept}
    assert abs(sum(shares) / 600 - SCRIBE.heed) < 0.03
    assert kinds == set(KINDS)


def test_whoever_heeds_all_keeps_all_and_whoever_heeds_nothing_plans_nothing():
    rng = random.Random(1)
    for _ in range(60):
        chain = draw_chain(rng, "train", 4)
        every = demonstration(Scribe(1.0), "", chain.constraints, rng).completion
        assert before_answer(every) == " ".join(note(one) for one in chain.constraints)
        line = after_thinking(every)
        assert all(keeps(one.kind, one.arguments, line) for one in chain.constraints)
        assert demonstration(Scribe(0.0), "", chain.constraints, rng).completion.startswith(
            "<think></think>"
        )


def test_an_answer_to_a_longer_prompt_keeps_the_new_constraint_more_often():
    """So pseudo-labels are right more often than not: p > q."""
    rng = random.Random(2)
    one = Constraint("mood", {"mood": "sad"}, "Sound sad.")
    lines = [
        [after_thinking(demonstration(SCRIBE, "", some, rng).completion) for _ in range(400)]
        for some in ([one], [])
    ]
    p, q = (sum(keeps(one.kind, one.arguments, line) for line in some) / 400 for some in lines)
    assert p > 0.6 and q < 0.35


def test_writing_is_endless_seeded_and_of_training_seeds_alone():
    first, again, other = (list(islice(writing(SCRIBE, seed), 200)) for seed in (0, 0, 1))
    assert first == again != other
    prompts = [example.messages[0]["content"] for example in first]
    for prompt in prompts:
        assert any(prompt.startswith(seed) for seed in seeds("train"))
        assert not any(prompt.startswith(seed) for seed in seeds("eval"))
    assert any(prompt in seeds("train") for prompt in prompts)  # some ask for nothing
    assert len(set(prompts)) > 180


def test_no_demonstration_is_longer_than_the_card_samples():
    tokenizer = build_tokenizer(LINES_WORDS)
    lengths = [
        len(tokenizer.encode(example.completion, add_special_tokens=False)) + 1
        for example in islice(writing(SCRIBE, seed=3), 1500)
    ]
    assert max(lengths) <= MAX_NEW_TOKENS


@pytest.mark.parametrize("heed", [-0.1, 1.5])
def test_a_chance_is_from_0_to_1(heed):
    with pytest.raises(WorkbenchError, match=f"heed is {heed}; give a chance"):
        Scribe(heed)
