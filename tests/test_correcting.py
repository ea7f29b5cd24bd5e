"""The sampler's correction: unbiased by enumeration, cut off by hand, and nothing where nothing differs."""

import copy
import dataclasses
import itertools

import pytest
import torch

from workbench.correcting import Correction, level_of, prepare_correction
from workbench.models import Policy
from workbench.reading import read
from workbench.surrogates import SURROGATES
from workbench.trainer import prepare, train_step

FREE = 1e6  # a cap that never cuts


def tabular(length, seed=0):
    """Logits of trainer (with gradient) and sampler after every prefix of 3 tokens, and a reward."""
    generator = torch.Generator().manual_seed(seed)
    prefixes = [p for n in range(length) for p in itertools.product(range(3), repeat=n)]
    theta = torch.randn(len(prefixes), 3, generator=generator, dtype=torch.float64)
    mu = theta + torch.randn(len(prefixes), 3, generator=generator, dtype=torch.float64)
    completions = list(itertools.product(range(3), repeat=length))
    rewards = torch.randn(len(completions), generator=generator, dtype=torch.float64)
    return theta.requires_grad_(), mu, prefixes, completions, rewards


def logprobs_of(logits, prefixes, completions):
    """Log-prob of every token of every completion, (B, T)."""
    table = logits.log_softmax(-1)
    return torch.stack(
        [
            torch.stack([table[prefixes.index(y[:t]), y[t]] for t in range(len(y))])
            for y in completions
        ]
    )


def gradients(length, level, cap=FREE, surrogate="reinforce"):
    """The gradient of E_pi[reward], and the mean over mu of the estimator: both exact, by enumeration."""
    theta, mu, prefixes, completions, rewards = tabular(length)
    new_BT = logprobs_of(theta, prefixes, completions)
    sampler_BT = logprobs_of(mu, prefixes, completions)
    wanted = torch.autograd.grad((new_BT.sum(1).exp() * rewards).sum(), theta, retain_graph=True)[0]
    mask_BT = torch.ones_like(new_BT, dtype=torch.bool)
    correction = Correction(level, cap, None)
    old_BT, weights_BT = correction.of(new_BT, sampler_BT, mask_BT, torch.arange(len(completions)))
    loss_BT = SURROGATES[surrogate](new_BT, old_BT, rewards[:, None], mask_BT) * weights_BT
    chance_B = sampler_BT.sum(1).exp()
    found = torch.autograd.grad(-(chance_B[:, None] * loss_BT).sum(), theta)[0]
    assert abs(float(chance_B.sum()) - 1) < 1e-12
    return wanted, found


@pytest.mark.parametrize("surrogate", ["reinforce", "ppo_clip", "cispo"])
def test_weights_of_whole_completions_make_the_gradient_unbiased(surrogate):
    wanted, found = gradients(3, "sequence", surrogate=surrogate)
    torch.testing.assert_close(found, wanted, atol=1e-12, rtol=1e-10)


def test_weights_of_tokens_do_so_for_one_token_and_only_come_closer_for_more():
    wanted, found = gradients(1, "token")
    torch.testing.assert_close(found, wanted, atol=1e-12, rtol=1e-10)
    wanted, found = gradients(3, "token")
    assert (found - wanted).abs().max() > 1e-3  # later tokens' rewards are still the sampler's


def test_without_weights_or_with_a_low_cap_it_is_biased():
    wanted, found = gradients(1, "token", cap=1.0)
    assert (found - wanted).abs().max() > 1e-2
    theta, mu, prefixes, completions, rewards = tabular(1)
    new_BT = logprobs_of(theta, prefixes, completions)
    chance_B = logprobs_of(mu, prefixes, completions).exp()[:, 0]
    plain = torch.autograd.grad((chance_B * rewards * new_BT[:, 0]).sum(), theta)[0]
    assert (plain - wanted).abs().max() > 1e-2


def test_weights_by_hand():
    # The trainer gives 0.5, 0.2 and 0.9; the sampler gave 0.25, 0.4 and 0.1. The last token is masked.
    new_NT, sampler_NT = (
        torch.tensor([[0.5, 0.2, 0.9]]).log(),
        torch.tensor([[0.25, 0.4, 0.1]]).log(),
    )
    mask_NT = torch.tensor([[True, True, False]])
    row = torch.tensor([0])
    old_NT, weights = Correction("token", 1.5, None).of(new_NT, sampler_NT, mask_NT, row)
    torch.testing.assert_close(weights, torch.tensor([[1.5, 0.5, 1.0]]))  # 2 is cut to 1.5
    torch.testing.assert_close(old_NT.exp(), torch.tensor([[0.5, 0.2, 1.0]]))
    _, weights = Correction("sequence", 1.5, None).of(new_NT, sampler_NT, mask_NT, row)
    torch.testing.assert_close(weights, torch.ones(1, 3))  # 2 * 0.5
    held = torch.tensor([[9.0, 9.0, 9.0, 9.0], [0.1, 0.4, 0.9, 0.9]]).log()
    old_NT, weights = Correction("token", 5.0, held).of(
        new_NT, sampler_NT, mask_NT, torch.tensor([1])
    )
    torch.testing.assert_close(weights, torch.tensor([[0.4, 1.0, 1.0]]))
    torch.testing.assert_close(old_NT.exp(), torch.tensor([[0.1, 0.4, 1.0]]))


# --- in a run -------------------------------------------------------------------------------------


@pytest.fixture
def apart(toy_recipe, monkeypatch):
    """(changes) -> a step whose sampler is off the trainer by noise, at learning rate 0, and its state."""

    merged = Policy.sampler

    def step(**changes):
        recipe = dataclasses.replace(toy_recipe, learning_rate=0.0, **changes)
        state = prepare(recipe)
        noisy = copy.deepcopy(merged(state.policy))
        generator = torch.Generator().manual_seed(3)
        with torch.no_grad():
            noisy.lm_head.weight.add_(
                torch.randn(noisy.lm_head.weight.shape, generator=generator) * 0.1
            )
        monkeypatch.setattr(Policy, "sampler", lambda self: noisy)
        return state, recipe, train_step(state, recipe)

    return step


@pytest.mark.parametrize("level", ["token", "sequence"])
def test_the_loss_of_a_step_is_the_weighted_one(apart, level):
    state, _, report = apart(sampler_correction=level, sampler_cap=1.3)
    rollouts, metrics = report.rollouts, report.metrics
    assert metrics["train/mismatch"] > 0.05
    with torch.no_grad():
        new_BT, _ = read(state.policy, rollouts).logprobs_entropies()
    logs_BT = (new_BT - rollouts.logprobs_BT) * rollouts.mask_BT
    if level == "sequence":
        logs_BT = logs_BT.sum(1, keepdim=True).expand_as(logs_BT)
    weights_BT = logs_BT.exp().clamp(max=1.3)
    advantages_B1 = report.advantages_PG.view(-1, 1)
    loss = -(weights_BT * advantages_B1 * new_BT * rollouts.mask_BT).sum() / rollouts.B
    assert metrics["train/loss"] == pytest.approx(float(loss), rel=1e-4)
    rows_B = (advantages_B1 != 0).flatten()
    counted = weights_BT[rows_B][rollouts.mask_BT[rows_B]]
    assert metrics["train/sampler_weight"] == pytest.approx(float(counted.mean()), rel=1e-4)
    assert metrics["train/sampler_cut"] == pytest.approx(float((counted >= 1.3).float().mean()))
    assert level == "sequence" or 0 < metrics["train/sampler_cut"] < 1
    assert metrics["train/ratio_gap"] == 0.0  # the trainer has not moved


@pytest.mark.parametrize("surrogate", ["reinforce", "ppo_clip"])
def test_several_passes_weigh_by_the_trainer_of_the_start(apart, surrogate):
    once = apart(sampler_correction="token", surrogate=surrogate)[2].metrics
    several = apart(sampler_correction="token", surrogate=surrogate, epochs=2)[2].metrics
    for name in ("train/loss", "train/sampler_weight", "train/sampler_cut"):
        assert several[name] == pytest.approx(once[name], rel=1e-4)
    none = apart(sampler_correction="none", surrogate=surrogate)[2].metrics
    assert none["train/loss"] != pytest.approx(once["train/loss"], rel=1e-3)
    assert "train/sampler_weight" not in none


def test_auto_corrects_nothing_where_the_trainers_own_numbers_sample(toy_recipe):
    state = prepare(toy_recipe)
    assert level_of(toy_recipe, state.policy) == "none"
    report = train_step(state, toy_recipe)
    given = (toy_recipe, state.policy, state.memory, report.rollouts, torch.ones(12).bool())
    assert prepare_correction(*given) is None
    assert "train/sampler_weight" not in report.metrics
    state.policy.engine = "paged"
    assert level_of(toy_recipe, state.policy) == "token"
    assert level_of(toy_recipe.replace(sampler_correction="none"), state.policy) == "none"


def test_a_step_by_the_paged_engine_is_corrected(toy_recipe):
    recipe = toy_recipe.replace(engine="paged", quantize="none")
    report = train_step(prepare(recipe), recipe)
    assert report.metrics["train/mismatch"] < 1e-4
    assert report.metrics["train/sampler_weight"] == pytest.approx(1, abs=1e-3)
