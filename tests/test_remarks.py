"""What a run's numbers say, by hand-made numbers: warnings once, reasons of a loss near 0."""

import pandas as pd
import pytest

from workbench.recipe import Recipe
from workbench.remarks import (
    LEAVING,
    RECENT,
    Watch,
    cut_sentence,
    left_at,
    loss_remarks,
    percent,
    standing,
)

R = Recipe(max_new_tokens=256)
WELL = {"rollout/truncated": 0.0, "train/grad_norm": 0.4, "train/loss": -0.5, "groups/zero_signal": 0.1,
        "train/trained_share": 1.0, "train/beta": 0.0, "train/learning_rate": 2e-3}  # fmt: skip
DEAD = WELL | {"train/loss": 0.0, "train/grad_norm": 0.0, "groups/zero_signal": 1.0}


def said(known, recipe=R):
    return [(remark.wrong, remark.text) for remark in loss_remarks(known, recipe)]


# ------------------------------------------------------------------ truncation


def test_a_first_step_with_many_cut_is_told_with_its_share_and_limit():
    (text,) = Watch().note(WELL | {"rollout/truncated": 0.31}, R)
    assert text.startswith(
        "31 % of completions were cut at 256 tokens; cut before an answer, they "
    )
    assert "count as wrong. Raise max_new_tokens" in text and "'overlong'" in text


def test_the_mean_of_the_last_steps_decides_and_it_is_said_once_until_mended():
    watch = Watch()
    shares = [0.0, 0.2, 0.3, 0.3, 0.3, 0.3] + [0.08] * 5 + [0.3] * 3 + [0.0] * 5 + [0.9]
    told = [bool(watch.note(WELL | {"rollout/truncated": share}, R)) for share in shares]
    # Means: .0, .1 (said), then above; .08 is not mended, so .3 says nothing; after the zeros .18 does.
    assert [n for n, yes in enumerate(told) if yes] == [1, 19]


def test_under_a_tenth_and_without_training_nothing_is_said():
    watch = Watch()
    assert watch.note({"step": 0, "eval/pass@1": 0.3}, R) == []
    assert all(watch.note(WELL | {"rollout/truncated": 0.09}, R) == [] for _ in range(9))


def test_a_resumed_run_does_not_repeat_what_was_said():
    cut = WELL | {"rollout/truncated": 0.5}
    assert Watch([cut] * RECENT).note(cut, R) == []


def test_the_sentence_says_what_becomes_of_them():
    lowest = cut_sentence(0.5, R.replace(truncated="lowest"))
    assert "they get the lowest reward of their group" in lowest
    other = cut_sentence(0.5, Recipe(rewards={"ent": 1.0, "overlong": 0.2}))
    assert "their rewards are those of unfinished text" in other and "'overlong'" not in other


@pytest.mark.parametrize(
    ("share", "text"),
    [(0, "0 %"), (0.001, "1 %"), (0.314, "31 %"), (0.999, "99 %"), (1, "100 %")],
)
def test_shares_as_percent(share, text):
    assert percent(share) == text


# ------------------------------------------------------------------ nothing is learned


def test_no_signal_for_want_of_thoughts_is_told_where_they_count():
    """Under joint a missing thought costs nothing, so there it is no reason."""
    known = DEAD | {"rollout/malformed": 1.0, "groups/solved_all": 0.0, "groups/solved_none": 1.0}
    ((wrong, text),) = said(known, R.replace(separation="start"))
    assert wrong and "no completion closed a thought once and then answered" in text
    assert "separation 'start'" in text and "train 'joint'" in text
    assert "not one of the 16 completions" in said(known)[0][1]
    nearly = known | {"rollout/malformed": 0.9}
    assert "not one of the 16 completions" in said(nearly, R.replace(separation="start"))[0][1]
    table = pd.DataFrame([known] * RECENT)
    assert "closed a thought" in standing(table, R.replace(separation="start"))[0]


def test_steps_that_change_nothing_are_told_at_the_fifth_with_the_reason():
    watch = Watch()
    dead = DEAD | {"groups/solved_all": 0.0, "groups/solved_none": 1.0}
    told = [watch.note(dead, R) for _ in range(RECENT + 2)]
    assert [bool(texts) for texts in told] == [False] * 4 + [True, False, False]
    assert told[4][0].startswith(
        "The last 5 steps changed nothing. No group had signal: not one of"
    )
    assert watch.note(WELL, R) == []
    assert [bool(watch.note(dead, R)) for _ in range(RECENT)] == [False] * 4 + [True]


def test_standing_reads_the_last_rows_of_the_metrics():
    rows = [{"step": 0}] + [{"step": n + 1, **WELL, "rollout/truncated": 0.9} for n in range(5)]
    frame = pd.DataFrame(rows).set_index("step")
    assert [text[:4] for text in standing(frame, R)] == ["90 %"]
    rows += [{"step": n + 6, **DEAD} for n in range(5)]
    (text,) = standing(pd.DataFrame(rows).set_index("step"), R)
    assert text.startswith("The last 5 steps changed nothing")
    assert standing(pd.DataFrame({"step": []}).set_index("step"), R) == []


# ------------------------------------------------------------------ the loss of a step


def test_a_healthy_step_needs_no_word():
    assert said(WELL) == []


def test_a_step_that_was_not_trained_has_none():
    assert said({"eval/pass@1": 0.5, "train/loss": float("nan")}) == []


def test_all_wrong_and_all_right_ask_for_opposite_things():
    ((wrong, text),) = said(DEAD | {"groups/solved_all": 0.0, "groups/solved_none": 1.0})
    assert wrong and "not one of the 16 completions of any prompt was right. Take easier" in text
    assert text.endswith("Loss and gradient are 0.")
    ((wrong, text),) = said(DEAD | {"groups/solved_all": 1.0, "groups/solved_none": 0.0})
    assert wrong and "Take harder problems" in text


def test_a_mixture_names_its_parts():
    ((_, text),) = said(DEAD | {"groups/solved_all": 0.25, "groups/solved_none": 0.75})
    assert "the same total reward (25 % all right, 75 % none right)" in text


def test_equal_rewards_without_truth_and_a_floor_are_other_reasons():
    ((_, text),) = said(DEAD)
    assert "all completions have the same total reward. Take" in text
    ((_, text),) = said(DEAD, R.replace(reward_floor=0.3))
    assert "under reward_floor 0.3" in text


def test_with_an_anchor_only_that_acts():
    known = WELL | {"groups/zero_signal": 1.0, "train/beta": 0.05, "train/grad_norm": 0.02}
    assert said(known)[0][1].endswith("Only the anchor acts (beta 0.05).")


def test_half_without_signal_is_told_but_is_no_fault():
    ((wrong, text),) = said(
        WELL | {"groups/zero_signal": 0.75, "groups/solved_all": 0.5, "groups/solved_none": 0.25}
    )
    assert not wrong
    assert text.startswith("75 % of the groups had no signal (50 % all right, 25 % none right)")


def test_a_loss_of_0_with_a_gradient_is_as_it_should_be():
    ((wrong, text),) = said(WELL | {"train/loss": -1.2e-9})
    assert not wrong and "(-1.2e-09) is as it should be" in text and "its norm is 0.4" in text


def test_nothing_left_to_train_by_separation():
    recipe = R.replace(separation="answer_only")
    known = WELL | {"train/trained_share": 0.0, "train/loss": 0.0, "train/grad_norm": 0.0}
    ((wrong, text),) = said(known, recipe)
    assert wrong and "separation 'answer_only' leaves none" in text


def test_a_gradient_of_0_without_a_known_reason_is_said_plainly():
    ((wrong, text),) = said(WELL | {"train/loss": 0.0, "train/grad_norm": 0.0})
    assert wrong and text == "The gradient is 0, so this step changed nothing."


def test_clipping_and_small_steps():
    ((wrong, text),) = said(WELL | {"train/grad_norm": 25.0})
    assert not wrong and "norm 25 is cut to 1." in text
    ((wrong, text),) = said(WELL | {"train/learning_rate": 0.0})
    assert wrong and text == "The learning rate is 0: nothing moves. Raise learning_rate."
    ((wrong, text),) = said(WELL | {"train/learning_rate": 1e-6})
    assert wrong and "1e-06 is low for a low-rank update, which usually takes 1e-05 to 1e-3" in text


def test_most_cut_explains_a_constant_reward():
    known = DEAD | {"groups/solved_all": 0.0, "groups/solved_none": 1.0, "rollout/truncated": 1.0}
    texts = [text for _, text in said(known)]
    assert texts[1].startswith("100 % of completions were cut at 256 tokens")


# ------------------------------------------------------------------ a guard's warning among others


def test_only_a_guards_warning_counts_as_leaving():
    events = pd.DataFrame(
        {"step": [2, 6, 8], "kind": ["warning"] * 3, "text": ["31 % cut", f"{LEAVING} 6", f"{LEAVING} 8"]}
    )  # fmt: skip
    assert left_at(events) == 6 and left_at(events[:1]) is None and left_at(events[:0]) is None
