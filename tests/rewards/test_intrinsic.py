"""Rewards without labels: by hand, and the identities that tell them apart."""

import math
import threading
from types import SimpleNamespace

import pytest
import torch

from workbench.objectives import OBJECTIVES
from workbench.rewards import REWARDS, compute
from workbench.rewards.intrinsic import (
    INTRINSIC,
    NO_ANSWER,
    answer_clusters,
    avg_ent,
    cluster,
    collision,
    cre,
    empo,
    ent,
    incorrect_majority,
    majority,
    majority_vote,
    random_,
    self_certainty,
    sequence_logprob,
)
from workbench.sampling import statistics
from workbench.tasks import make_task

SERIES = ("logprobs", "entropies", "log_collisions", "self_certainties", "log_peaks")
BY_TOKEN = ("ent", "avg_ent", "cre", "collision", "self_certainty", "sequence_logprob", "length")


def recorded(lengths, group=2, **series):
    """Rollouts whose completions have these lengths; a series not given is 0, and 9 where masked."""
    width = max(lengths)
    mask_BT = torch.arange(width) < torch.tensor(lengths)[:, None]
    found = {}
    for name in SERIES:
        values_BT = torch.tensor(series.get(name, [[0.0] * width] * len(lengths)))
        found[f"{name}_BT"] = values_BT.where(mask_BT, torch.tensor(9.0))
    return SimpleNamespace(
        P=len(lengths) // group,
        G=group,
        mask_BT=mask_BT,
        sampled_BT=mask_BT,
        lengths_B=mask_BT.sum(1),
        max_new_tokens=10,
        **found,
    )


def sampled(logits_TV, repeats=1):
    """One completion of the likeliest tokens, whose every token's logits are known."""
    contexts = torch.arange(len(logits_TV)).repeat(repeats)
    found = statistics(logits_TV, contexts, logits_TV.argmax(-1)[contexts])
    series = {name: [part.tolist()] for name, part in zip(SERIES, found, strict=True)}
    return recorded([len(contexts)], group=1, **series)


class Sums:
    """Answers are whole numbers; the right one is the prompt's number."""

    name = "sums"

    def answer(self, completion):
        return completion.rpartition("=")[2]

    def same(self, one, two):
        return one.isdigit() and two.isdigit() and int(one) == int(two)

    def score(self, row, completion):
        return float(self.same(self.answer(completion), row["answer"]))


def answered(*groups, answers=(), cut=()):
    """Rollouts with these completions; those whose number is in `cut` reached the limit."""
    completions = [text for group in groups for text in group]
    return SimpleNamespace(
        P=len(groups),
        G=len(groups[0]),
        rows=[{"answer": answer} for answer in answers],
        completions=completions,
        truncated_B=torch.tensor([b in cut for b in range(len(completions))]),
        logprobs_BT=torch.zeros(len(completions), 1),
    )


# ------------------------------------------------------------------ by hand


def test_entropies_are_summed_or_averaged_over_the_completions_own_tokens():
    made = recorded([3, 1], entropies=[[1.0, 2.0, 0.5], [2.0, 0.0, 0.0]])
    assert ent(made, None).tolist() == [[-3.5, -2.0]]
    torch.testing.assert_close(avg_ent(made, None), torch.tensor([[-3.5 / 3, -2.0]]))


def test_what_the_initial_model_answered_says_nothing_of_the_policys_certainty():
    rollouts = recorded([3, 2], entropies=[[0.1, 0.2, 5.0], [0.5, 5.0, 0.0]])
    rollouts.sampled_BT = torch.tensor([[True, True, False], [True, False, False]])
    torch.testing.assert_close(ent(rollouts, None), torch.tensor([[-0.3, -0.5]]))
    torch.testing.assert_close(avg_ent(rollouts, None), torch.tensor([[-0.15, -0.5]]))


def test_renyi_entropy_has_the_orders_that_were_recorded():
    made = recorded(
        [2, 1],
        entropies=[[1.0, 0.5], [0.25, 0.0]],
        log_collisions=[[-0.75, -0.5], [-0.125, 0.0]],
        log_peaks=[[-0.5, -0.25], [-0.0625, 0.0]],
    )
    assert cre(made, None).tolist() == [[-1.25, -0.125]]
    assert cre(made, None, order=1).tolist() == ent(made, None).tolist() == [[-1.5, -0.25]]
    assert cre(made, None, order="inf").tolist() == [[-0.75, -0.0625]]


def test_collision_adds_up_probabilities_and_nothing_for_padding():
    made = recorded([2, 1], log_collisions=[[math.log(0.5), math.log(0.25)], [0.0, 0.0]])
    torch.testing.assert_close(collision(made, None), torch.tensor([[0.75, 1.0]]))


def test_self_certainty_is_a_mean_and_log_prob_a_sum():
    made = recorded(
        [2, 1],
        self_certainties=[[1.0, 2.0], [-1e-7, 0.0]],
        logprobs=[[-1.0, -0.5], [-2.0, 0.0]],
    )
    assert self_certainty(made, None).tolist() == [[1.5, 0.0]]
    assert sequence_logprob(made, None).tolist() == [[-1.5, -2.0]]


def test_the_majority_gets_1_in_whatever_form_it_is_written():
    made = answered(["=7", "=07", "=8", "=x"], ["=1", "=2", "=2", "=3"])
    assert majority_vote(made, Sums()).tolist() == [[1, 1, 0, 0], [0, 1, 1, 0]]


def test_of_equally_many_votes_the_answer_sampled_first_wins():
    made = answered(["=x", "=2", "=1", "=1", "=2"], ["=5", "=4", "=3", "=2", "=1"])
    assert majority_vote(made, Sums()).tolist() == [[0, 1, 0, 0, 1], [1, 0, 0, 0, 0]]


def test_without_an_answer_there_is_no_vote_and_no_reward():
    """A completion that was cut off has none, even if its text reads like one."""
    made = answered(["=3", "=3", "=4", "=x"], ["", "=x", "=y", ""], cut=(0, 1))
    assert majority_vote(made, Sums()).tolist() == [[0, 0, 1, 0], [0, 0, 0, 0]]
    assert empo(made, Sums()).tolist() == [[0, 0, 0, 0], [0, 0, 0, 0]]  # all differ: guarded


def test_empo_is_the_share_of_the_own_cluster():
    made = answered(["=7", "=07", "=8", "=x"], ["=1", "=1", "=1", "=1"], ["=1", "=2", "=3", "=4"])
    expected = [[0.5, 0.5, 0.25, 0.0], [1.0] * 4, [0.0] * 4]
    assert empo(made, Sums()).tolist() == expected


def test_empos_guard_is_a_share_of_the_largest_entropy():
    """Shares 1/2, 1/4, 1/4 have entropy 1.5 log 2, three quarters of log 4."""
    made = answered(["=7", "=7", "=8", "=x"])
    assert empo(made, Sums(), guard=0.76).tolist() == [[0.5, 0.5, 0.25, 0.0]]
    assert empo(made, Sums(), guard=0.75).tolist() == [[0.0] * 4]
    assert empo(answered(["=7", "=7"]), Sums(), guard=0.0).tolist() == [[0.0, 0.0]]


def test_the_wrong_majority_is_rewarded_and_the_right_one_is_not():
    made = answered(["=1", "=1", "=2"], ["=1", "=1", "=2"], ["=x"] * 3, answers=("2", "1", "5"))
    assert incorrect_majority(made, Sums()).tolist() == [[1, 1, 0], [0, 0, 0], [0, 0, 0]]


def test_clusters_form_around_their_first_answer():
    assert cluster(["1", "x", "2", "01", "", "2"], Sums().same) == [
        0,
        NO_ANSWER,
        1,
        0,
        NO_ANSWER,
        1,
    ]
    near = lambda one, two: abs(float(one) - float(two)) <= 1  # noqa: E731 - not transitive
    assert cluster(["0", "1", "2"], near) == [0, 0, 1]
    assert majority([NO_ANSWER, NO_ANSWER, 2]) == 2 and majority([NO_ANSWER]) is None


def test_countdown_votes_by_value_and_numbers():
    texts = ["<answer>2*3+1</answer>", "<answer>1+3*2</answer>", "<answer>2*(3+1)</answer>", "2*3+"]
    assert answer_clusters(answered(texts), make_task("countdown")) == [[0, 0, 1, NO_ANSWER]]


# ------------------------------------------------------------------ the coin


def tossed(seed, P=8, G=8):
    return SimpleNamespace(P=P, G=G, seed=seed, logprobs_BT=torch.zeros(P * G, 1))


def test_the_coin_follows_the_batchs_seed_and_nothing_else():
    before = torch.random.get_rng_state()
    values_PG = random_(tossed(3), None)
    assert torch.equal(values_PG, random_(tossed(3), None))
    assert not torch.equal(values_PG, random_(tossed(4), None))
    assert torch.equal(before, torch.random.get_rng_state())
    assert set(values_PG.flatten().tolist()) == {0.0, 1.0}


def test_the_coin_falls_with_its_chance():
    assert abs(float(random_(tossed(1, 100, 100), None, chance=0.2).mean()) - 0.2) < 0.02
    assert not random_(tossed(1), None, chance=0.0).any()
    assert random_(tossed(1), None, chance=1.0).all()


def test_the_coin_is_independent_of_the_tokens_that_the_same_seed_draws():
    uniforms = torch.rand(64 * 64, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    coins = random_(tossed(5, 64, 64), None).flatten().double()
    assert abs(float(torch.corrcoef(torch.stack((uniforms, coins)))[0, 1])) < 0.05


# ------------------------------------------------------------------ identities


def logits(sharpness=1.0):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(6, 11, generator=generator) * sharpness


def test_mean_entropy_is_rents_reward_and_its_sum_em_rls():
    p = logits().softmax(-1)
    entropy_T = -(p * p.log()).sum(-1)
    made = sampled(logits())
    assert float(avg_ent(made, None)) == pytest.approx(-float(entropy_T.mean()), abs=1e-5)
    assert float(ent(made, None)) == pytest.approx(-float(entropy_T.sum()), abs=1e-5)


def test_self_certainty_is_logsumexp_less_mean_less_log_v():
    z = logits()
    p = z.softmax(-1)
    divergence_T = (torch.full_like(p, 1 / 11) * (1 / 11 / p).log()).sum(-1)
    short = z.logsumexp(-1) - z.mean(-1) - math.log(11)
    torch.testing.assert_close(short, divergence_T)
    found = float(self_certainty(sampled(z), None))
    assert found == pytest.approx(float(short.mean()), abs=1e-5)


@pytest.mark.parametrize("order", [1, 2, "inf"])
def test_renyi_entropy_of_the_recorded_orders_is_that_of_the_formula(order):
    logp = logits().double().log_softmax(-1)
    near = {1: 1 + 1e-6, 2: 2.0, "inf": 1e4}[order]  # the formula's limits, in fp64
    wanted = -((near * logp).logsumexp(-1) / (1 - near)).sum()
    assert float(cre(sampled(logits()), None, order=order)) == pytest.approx(
        float(wanted), rel=1e-3
    )


def push(less, more):
    difference = float(more) - float(less)
    return "none" if abs(difference) < 1e-5 else "up" if difference > 0 else "down"


@pytest.mark.parametrize("name", BY_TOKEN)
def test_a_longer_completion_moves_each_reward_the_way_its_row_says(name):
    """The same tokens twice over."""
    once, twice = (REWARDS[name](sampled(logits(), repeats), None) for repeats in (1, 2))
    assert push(once, twice) == REWARDS[name].pressure[0]


@pytest.mark.parametrize("name", BY_TOKEN)
def test_a_sharper_distribution_moves_each_reward_the_way_its_row_says(name):
    blunt, sharp = (REWARDS[name](sampled(logits(scale)), None) for scale in (1.0, 2.0))
    assert push(blunt, sharp) == REWARDS[name].pressure[1]


def test_under_grpo_scale_and_shift_of_a_single_reward_are_nothing():
    """So -T, -T / T_max and the row `length`, 1 - T / T_max, are one method."""
    made = recorded([3, 7, 9, 4], group=4)
    plain_PG = -made.lengths_B.double().view(1, 4)
    grpo = OBJECTIVES["grpo"]
    wanted = grpo(plain_PG)
    torch.testing.assert_close(grpo(plain_PG * 3 + 5), wanted, atol=1e-5, rtol=1e-5)
    found = grpo(REWARDS["length"](made, None).double())
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)
    assert wanted[0, 0] > 0.9 and wanted[0, 2] < -0.9


# ------------------------------------------------------------------ the table


def test_every_row_says_which_way_it_pushes():
    for name, row in INTRINSIC.items():
        assert len(row.pressure) == 2 and set(row.pressure) <= {"up", "down", "none"}, name
        assert REWARDS[name] is row and row.bounds[0] < row.bounds[1], name


def test_all_rows_run_on_what_sampling_records_alike_in_every_thread(policy_of):
    from workbench.rollout import sample

    task = make_task("arithmetic")
    rows = [task.dataset("train")[i] for i in range(2)]
    messages = [task.messages(row) for row in rows]
    made = sample(policy_of(), messages, rows=rows, group_size=3, max_new_tokens=8, seed=2)
    # Those that any task's rows suffice for: `constraints` wants some.
    table = {name: row for name, row in REWARDS.items() if name != "constraints"}
    here, there = compute(table, made, task), {}
    thread = threading.Thread(target=lambda: there.update(compute(table, made, task)))
    thread.start()
    thread.join()
    assert list(here) == list(there) == list(table)
    assert all(torch.equal(here[name], there[name]) for name in table)
    for name, values_PG in here.items():
        low, high = REWARDS[name].range_with({})
        assert low <= float(values_PG.min()) and float(values_PG.max()) <= high, name


def test_maths_answers_vote_by_value_in_a_worker_thread_too():
    task = make_task("math")
    made = answered([r"\boxed{1/2}", r"\boxed{0.5}", r"\boxed{\frac{1}{2}}", r"\boxed{2}"])
    here, there = majority_vote(made, task), []
    thread = threading.Thread(target=lambda: there.append(majority_vote(made, task)))
    thread.start()
    thread.join()
    assert here.tolist() == there[0].tolist() == [[1, 1, 1, 0]]
