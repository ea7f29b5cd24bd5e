"""Reward models: the loss by hand, scores whatever the batch, the same seed the same weights."""

import math

import pytest
import torch

from workbench.tiny.judges import (
    CENTRING,
    build_judge,
    conversation_scores,
    pair_scores,
    preference_loss,
    train_judge,
)
from workbench.tiny.raters import Pair, fair, shortcut
from workbench.tiny.tokenizer import PLACES_WORDS, build_tokenizer

ASKED = [
    ("What do I need in Arvik?", "Take a coat."),
    ("What do I need in Arvik?", "Take water, food, money, a map, a phone and good shoes."),
    ("I leave soon. I go to Orlok. What do I bring?", "Take spikes and a hat."),
    ("How do I prepare for Arvik?", "is"),
    ("Hello! Which things help in Wexley?", "Take boots."),
]


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer(PLACES_WORDS)


@pytest.fixture(scope="module")
def model(tokenizer):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build_judge(tokenizer).eval()
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.data.normal_(0, 0.3)
    return model


def test_the_loss_by_hand():
    loss = preference_loss(torch.tensor([1.0, -2.0]), torch.tensor([0.0, 1.0]))
    by_hand = math.log(1 + math.exp(-1)) + math.log(1 + math.exp(3)) + CENTRING * (1 + 1)
    assert loss.item() == pytest.approx(by_hand / 2)


def test_the_loss_pulls_the_mean_to_zero_and_leaves_the_gap():
    preferred = torch.tensor([3.0], requires_grad=True)
    other = torch.tensor([2.0], requires_grad=True)
    preference_loss(preferred, other).backward()
    pull = 2 * CENTRING * 5
    assert (preferred.grad + other.grad).item() == pytest.approx(2 * pull, rel=1e-5)


def test_a_score_does_not_depend_on_its_batch(model, tokenizer):
    with torch.no_grad():
        together = conversation_scores(model, tokenizer, ASKED)
        singly = torch.cat([conversation_scores(model, tokenizer, [pair]) for pair in ASKED])
    assert torch.allclose(together, singly, atol=1e-4)
    assert together.std() > 0.1


def test_pairs_are_scored_in_their_order(model, tokenizer):
    chunk = [Pair(ASKED[0][0], ASKED[0][1], ASKED[1][1]), Pair(ASKED[2][0], ASKED[2][1], "is")]
    with torch.no_grad():
        preferred, other = pair_scores(model, tokenizer, chunk)
        alone = conversation_scores(model, tokenizer, [ASKED[0], ASKED[2]])
        others = conversation_scores(model, tokenizer, [ASKED[1], (ASKED[2][0], "is")])
    assert torch.allclose(preferred, alone, atol=1e-4)
    assert torch.allclose(other, others, atol=1e-4)


def test_the_model_is_a_small_classifier_with_one_output(tokenizer):
    model = build_judge(tokenizer)
    assert 200_000 < sum(p.numel() for p in model.parameters()) < 500_000
    assert model.config.num_labels == 1 and model.config.architectures is None


def test_the_same_seed_gives_the_same_weights_and_other_raters_others(tokenizer):
    def weights(utility, seed):
        model = train_judge(utility, tokenizer, seed, steps=3, batch=4, title=None)
        return model.state_dict()

    torch.manual_seed(1)
    first = weights(shortcut, 0)
    torch.manual_seed(2)
    second = weights(shortcut, 0)
    assert all(torch.equal(first[name], second[name]) for name in first)
    for other in (weights(shortcut, 1), weights(fair, 0)):
        assert not all(torch.equal(first[name], other[name]) for name in first)


def test_training_learns_what_holds_for_every_place(tokenizer):
    """In few steps at least that advice beats junk."""
    model = train_judge(fair, tokenizer, 0, steps=40, batch=16, title=None)
    with torch.no_grad():
        advice, junk = (
            conversation_scores(model, tokenizer, [(question, answer) for question, _ in ASKED])
            for answer in ("Take a coat and boots.", "is .")
        )
    assert advice.mean() > junk.mean()
