"""Training on pseudo-labels: losses against closed forms, a function of the seed, nothing moved beside."""

import math
import random

import pytest
import torch

from workbench.labelling import fitting
from workbench.labelling.fitting import (
    CENTRING,
    binary_loss,
    bradley_terry_loss,
    fit_pairs,
)
from workbench.labelling.pairs import Pair
from workbench.rewards.classifying import forward
from workbench.rewards.verdicts import new_verdict_model
from workbench.tasks.demands import Constraint
from workbench.tasks.lines import compose
from workbench.variants import WorkbenchError


def logits(seed):
    kept, missed = torch.randn(
        2, 5, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.double
    )
    return kept.requires_grad_(), missed.requires_grad_()


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def test_binary_is_the_cross_entropy_of_kept_and_not_kept():
    kept_N2, missed_N2 = logits(0)
    loss = binary_loss(kept_N2, missed_N2)
    s_kept = [sigmoid(b - a) for a, b in kept_N2.tolist()]
    s_missed = [sigmoid(b - a) for a, b in missed_N2.tolist()]
    by_hand = -sum(map(math.log, s_kept)) - sum(math.log(1 - s) for s in s_missed)
    assert loss.item() == pytest.approx(by_hand / 10)
    loss.backward()
    for place in range(5):
        push = (s_kept[place] - 1) / 10, s_missed[place] / 10
        assert kept_N2.grad[place].tolist() == pytest.approx([-push[0], push[0]])
        assert missed_N2.grad[place].tolist() == pytest.approx([-push[1], push[1]])


def test_bradley_terry_ranks_by_the_differences_and_holds_their_mean():
    kept_N2, missed_N2 = logits(1)
    loss = bradley_terry_loss(kept_N2, missed_N2)
    s = [
        (d - c, b - a) for (a, b), (c, d) in zip(missed_N2.tolist(), kept_N2.tolist(), strict=True)
    ]
    by_hand = sum(-math.log(sigmoid(k - m)) + CENTRING * (k + m) ** 2 for k, m in s) / 5
    assert loss.item() == pytest.approx(by_hand)
    loss.backward()
    for place, (k, m) in enumerate(s):
        pull = 2 * CENTRING * (k + m)
        for grad, push in ((kept_N2.grad, -sigmoid(m - k)), (missed_N2.grad, sigmoid(m - k))):
            assert grad[place].tolist() == pytest.approx([-(push + pull) / 5, (push + pull) / 5])


def test_the_losses_by_hand_where_nothing_is_known_and_where_all_is():
    nothing, right = torch.zeros(3, 2), torch.tensor([[-9.0, 9.0]])
    assert binary_loss(nothing, nothing).item() == pytest.approx(math.log(2))
    assert bradley_terry_loss(nothing, nothing).item() == pytest.approx(math.log(2))
    assert (
        binary_loss(right, -right).item() < 1e-6 and bradley_terry_loss(right, -right).item() < 1e-6
    )
    assert binary_loss(-right, right).item() > 10  # the sides are not exchanged


@pytest.mark.parametrize("loss", [binary_loss, bradley_terry_loss])
def test_autograd_agrees_with_differences(loss):
    assert torch.autograd.gradcheck(loss, logits(2))


def test_the_learning_rate_rises_over_a_twentieth_and_falls_to_zero():
    factors = [fitting._factor(step, 100) for step in range(101)]
    assert factors[:6] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])
    assert factors[52] == pytest.approx(48 / 95) and factors[99] == pytest.approx(1 / 95)
    assert factors[100] == 0 and max(factors) == 1.0
    assert fitting._factor(0, 1) == 1.0  # one update only is a whole one


def test_the_rate_suits_the_model(toy_scribe):
    judge = new(toy_scribe)
    assert fitting._rate(judge.model, 3) == fitting.TINY_RATE
    large = torch.nn.Linear(1, 1)
    large.weight = torch.nn.Parameter(torch.empty(30_000_000, 1, device="meta"))
    assert (fitting._rate(large, 2), fitting._rate(large, 1)) == (5e-6, 1e-4)


# --- a set that can be learned --------------------------------------------------------------------------


def new(toy_scribe, seed=0):
    return new_verdict_model(
        toy_scribe, quantize="none", lora_rank=0, device=torch.device("cpu"), seed=seed
    )


def separable(count, seed):
    """Sad and glad lines, each asked for and not: the answer alone tells nothing, nor does the constraint."""
    rng = random.Random(seed)
    pairs = []
    for number in range(count):
        sad, glad = (compose([Constraint("mood", {"mood": m}, "")], rng) for m in ("sad", "glad"))
        pairs.append(Pair(number, "mood", "Sound sad.", sad, glad, True, False))
        pairs.append(Pair(number, "mood", "Make it glad.", glad, sad, True, False))
    return pairs


def accuracy(judge, pairs):
    texts = [p.constraint for p in pairs]
    kept, missed = (
        judge.verdicts(texts, answers)
        for answers in ([p.kept for p in pairs], [p.missed for p in pairs])
    )
    return (sum(v > 0.5 for v in kept) + sum(v < 0.5 for v in missed)) / (2 * len(pairs))


@pytest.mark.parametrize("loss", ["binary", "bradley_terry"])
def test_a_separable_set_is_learned_and_holds_on_other_chains(toy_scribe, loss):
    told = []
    judge = fit_pairs(
        new(toy_scribe),
        separable(160, seed=0),
        loss=loss,
        epochs=12,
        learning_rate=1e-2,
        told=lambda done, of: told.append((done, of)),
    )
    assert told == [(n, 120) for n in range(1, 121)]
    other = separable(40, seed=1)
    assert accuracy(judge, other) > 0.85
    swapped = [p for pair in zip(other[1::2], other[::2], strict=True) for p in pair]
    wrong = judge.verdicts([p.constraint for p in swapped], [p.kept for p in other])
    assert sum(v < 0.5 for v in wrong) > 0.85 * len(wrong)  # it heeds the constraint


def weights(judge):
    return torch.cat([p.flatten() for p in judge.model.parameters()])


def test_training_is_a_function_of_pairs_and_seed_and_moves_no_generator(toy_scribe):
    pairs = separable(20, seed=2)
    found = []
    for seed, caller in ((0, 1), (0, 2), (1, 1)):
        torch.manual_seed(caller)
        random.seed(caller)
        before = torch.get_rng_state(), random.getstate()
        judge = fit_pairs(new(toy_scribe), pairs, epochs=2, batch=8, seed=seed)
        assert torch.equal(torch.get_rng_state(), before[0]) and random.getstate() == before[1]
        found.append(weights(judge))
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


def test_a_batch_in_parts_gives_the_same_update(toy_scribe, monkeypatch):
    pairs, found, passes = separable(20, seed=2), [], []
    for tokens in (16_384, 100):
        monkeypatch.setattr(fitting, "PART_TOKENS", tokens)
        rows = []
        monkeypatch.setattr(
            fitting, "forward", lambda m, r, rows=rows: rows.append(r) or forward(m, r)
        )
        found.append(weights(fit_pairs(new(toy_scribe), pairs, epochs=1, batch=len(pairs))))
        passes.append(len(rows))
    assert passes[0] == 1 and passes[1] > 4
    start = weights(new(toy_scribe))
    # AdamW's first step is a sign: it turns where a gradient is all rounding, so means are compared.
    apart, moved = (found[0] - found[1]).abs().mean(), (found[0] - start).abs().mean()
    assert apart < 0.01 * moved


def test_it_is_left_frozen_and_ready(toy_scribe):
    judge = fit_pairs(new(toy_scribe), separable(3, seed=3), epochs=1)
    assert not judge.model.training and not any(p.requires_grad for p in judge.model.parameters())


def test_only_what_is_to_be_trained_is_trained(toy_scribe):
    adapted = new_verdict_model(
        toy_scribe, quantize="nf4", lora_rank=4, device=torch.device("cpu"), seed=0
    )
    before = {name: p.clone() for name, p in adapted.model.named_parameters()}
    fit_pairs(adapted, separable(20, seed=4), epochs=1)
    moved = {n for n, p in adapted.model.named_parameters() if not torch.equal(p, before[n])}
    assert any("lora_B" in name for name in moved) and any("score" in name for name in moved)
    assert all("lora_" in name or "score" in name for name in moved)


def test_what_cannot_be_trained_on_is_told(toy_scribe):
    with pytest.raises(
        WorkbenchError, match="There is not one pair .*; use scorer 'rules', or raise"
    ):
        fit_pairs(new(toy_scribe), [])
    with pytest.raises(WorkbenchError, match="loss is 'hinge'; give one of binary, bradley_terry"):
        fit_pairs(new(toy_scribe), separable(1, seed=0), loss="hinge")
    judge = new(toy_scribe)
    with torch.no_grad():
        judge.model.score.weight.fill_(float("nan"))
    with pytest.raises(
        WorkbenchError, match="loss is nan after 0 updates; lower its learning rate"
    ):
        fit_pairs(judge, separable(1, seed=0))
