"""Advantages of thoughts and answers: by hand, and by enumeration of a game of two thoughts."""

import itertools

import pytest
import torch

from workbench.objectives import OBJECTIVES, dr_grpo, grpo, rloo
from workbench.thought_advantages import mean_over_answers, split_advantages, token_advantages

REWARD = torch.tensor([[1.0, 0.0], [0.7, 0.2]], dtype=torch.float64)  # thought, answer


def test_grpo_by_hand():
    rewards = torch.tensor([[1.0, 1.0, 1.0, 0.0, 0.0, 0.0]])
    answers, thoughts = split_advantages(grpo, rewards, 2)
    # The thoughts' values are 1, 1/2 and 0: mean 1/2, standard deviation sqrt((1/4 + 0 + 1/4) / 2) = 1/2.
    wanted = torch.tensor([[1.0, 1.0, 0.0, 0.0, -1.0, -1.0]])
    torch.testing.assert_close(thoughts, wanted, atol=1e-5, rtol=0)
    # The answers' mean is 1/2 and their deviation sqrt(6/4 / 5) = 0.5477.
    wanted = torch.tensor([[1.0, 1.0, 1.0, -1.0, -1.0, -1.0]]) * 0.91287
    torch.testing.assert_close(answers, wanted, atol=1e-5, rtol=0)


def test_one_answer_leaves_the_objective_alone():
    rewards = torch.rand(3, 4, generator=torch.Generator().manual_seed(0))
    answers, thoughts = split_advantages(grpo, rewards, 1)
    assert torch.equal(answers, grpo(rewards)) and thoughts is answers


def test_means_of_the_same_rewards_are_the_same_in_any_order():
    """Else GRPO would divide a rounding by its 1e-6."""
    values = torch.tensor([[0.1, 0.2, 0.3, 0.7, 0.7, 0.3, 0.2, 0.1]])
    mean = mean_over_answers(values, 4)
    assert mean.dtype == torch.float32 and mean[0, 0] == mean[0, 1]
    assert split_advantages(grpo, values, 4)[1].tolist() == [[0.0] * 8]


def test_what_an_objective_needs_besides_is_averaged_too():
    smoothing = OBJECTIVES["differential_smoothing"]
    rewards = torch.tensor([[1.0, 0.0, 0.0, 0.0]])
    logps = torch.tensor([[-1.0, -3.0, -2.0, -2.0]])
    _, thoughts = split_advantages(smoothing, rewards, 2, mean_logprobs_PG=logps)
    # V = 1/2, 0: deviation (population) 1/4, so GRPO is 1, -1; both mean log-probs are -2, and at V = 1/2
    # the smoothing is 0, at 0 it is -0.05 * (-1) * (-2) = -0.1.
    wanted = torch.tensor([[1.0, 1.0, -1.1, -1.1]])
    torch.testing.assert_close(thoughts, wanted, atol=1e-4, rtol=0)


def test_each_token_has_the_advantage_of_its_part():
    advantages = torch.tensor([[1.0, 2.0]])
    thoughts = torch.tensor([[5.0, 5.0]])
    thinking = torch.tensor([[True, True, False], [True, False, False]])
    found = token_advantages(advantages, thoughts, thinking)
    assert found.tolist() == [[5.0, 5.0, 1.0], [5.0, 2.0, 2.0]]
    assert token_advantages(advantages, advantages, thinking).tolist() == [[1.0], [2.0]]


# ------------------------------------------------------------------ enumeration


def game():
    """Logits of the thought, and of the answer after each thought; the value and its gradients."""
    thought = torch.tensor([0.3, -0.5], dtype=torch.float64, requires_grad=True)
    answer = torch.tensor([[0.2, 0.4], [-0.6, 0.1]], dtype=torch.float64, requires_grad=True)
    value = (thought.softmax(0)[:, None] * answer.softmax(1) * REWARD).sum()
    return thought, answer, torch.autograd.grad(value, (thought, answer))


def outcomes(thought, answer, thoughts, answers):
    """(probability, thoughts_K, answers_KM) of every outcome of a group."""
    p, q = thought.softmax(0).detach(), answer.softmax(1).detach()
    for chosen in itertools.product(range(2), repeat=thoughts):
        for given in itertools.product(range(2), repeat=thoughts * answers):
            rows = torch.tensor(given).view(thoughts, answers)
            chance = torch.stack([p[k] for k in chosen]).prod()
            chance = (
                chance * torch.stack([q[k, rows[i]].prod() for i, k in enumerate(chosen)]).prod()
            )
            yield float(chance), torch.tensor(chosen), rows


@pytest.mark.parametrize("answers", [1, 2, 3])
@pytest.mark.parametrize("objective", [rloo, dr_grpo])
def test_the_expected_update_is_the_policy_gradient(objective, answers):
    """A completion is a token of thought and one of answer; the loss is the trainer's, summed over tokens."""
    thoughts = 2
    thought, answer, (by_thought, by_answer) = game()
    mean = [torch.zeros(2, dtype=torch.float64), torch.zeros(2, 2, dtype=torch.float64)]
    total = 0.0
    thinking_BT = torch.tensor([[True, False]]).expand(thoughts * answers, 2)
    for chance, chosen_K, given_KM in outcomes(thought, answer, thoughts, answers):
        rewards = REWARD[chosen_K[:, None], given_KM].view(1, -1)
        advantages_BT = token_advantages(
            *split_advantages(objective, rewards, answers), thinking_BT
        ).expand(-1, 2)
        owner_B = chosen_K.repeat_interleave(answers)
        logp_BT = torch.stack(
            (
                thought.log_softmax(0)[owner_B],
                answer.log_softmax(1)[owner_B, given_KM.flatten()],
            ),
            1,
        )
        surrogate = (advantages_BT * logp_BT).sum() / len(owner_B)
        for slot, gradient in zip(
            mean, torch.autograd.grad(surrogate, (thought, answer)), strict=True
        ):
            slot += chance * gradient
        total += chance
    assert abs(total - 1) < 1e-12
    group = thoughts * answers
    shrunk = (1.0, 1.0) if objective is rloo else ((thoughts - 1) / thoughts, (group - 1) / group)
    torch.testing.assert_close(mean[0], shrunk[0] * by_thought, atol=1e-12, rtol=0)
    torch.testing.assert_close(mean[1], shrunk[1] * by_answer, atol=1e-12, rtol=0)


def test_more_answers_make_a_thoughts_advantage_quieter_down_to_that_of_the_thoughts():
    """Var = a + b / M exactly: a from which thoughts were drawn, b from their answers."""
    thought, answer, _ = game()
    variance = {}
    for answers in (1, 2, 4):
        mean = square = 0.0
        for chance, chosen_K, given_KM in outcomes(thought, answer, 2, answers):
            rewards = REWARD[chosen_K[:, None], given_KM].view(1, -1)
            first = float(split_advantages(rloo, rewards, answers)[1][0, 0])
            mean, square = mean + chance * first, square + chance * first**2
        variance[answers] = square - mean**2
    p, q = thought.softmax(0).detach(), answer.softmax(1).detach()
    values = (q * REWARD).sum(1)
    noise = (q * REWARD**2).sum(1) - values**2
    # Two independent thoughts: their values' variance twice, and their answers' twice over M.
    of_thoughts = 2 * float((p * values**2).sum() - (p * values).sum() ** 2)
    of_answers = 2 * float((p * noise).sum())
    for answers, found in variance.items():
        assert found == pytest.approx(of_thoughts + of_answers / answers, abs=1e-12)
    assert variance[1] > variance[2] > variance[4] > of_thoughts
