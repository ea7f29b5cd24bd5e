"""What a run remembers: counts of successes, the factor on beta, the moving reference."""

import json

import numpy as np
import pytest
import torch

from workbench.analysis import best_alpha, optimal_baseline
from workbench.memory import (
    Memory,
    adapt_beta,
    begin_step,
    effective_beta,
    move_reference,
    note_post_pre,
    objective_arguments,
    reference_of,
    remember_groups,
    second_stage,
)
from workbench.reading import read
from workbench.recipe import Recipe
from workbench.rollout import sample
from workbench.variants import WorkbenchError

PROMPTS = [[{"role": "user", "content": "make 7 from 3 4 1"}]]


def test_groups_are_counted_by_successes_and_older_ones_fade():
    memory = Memory.fresh(2)
    assert memory.solved_K.tolist() == pytest.approx([1 / 3] * 3)
    remember_groups(memory, torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.9, 0.8]]))
    assert memory.solved_K.tolist() == pytest.approx([0.3, 1.3, 2.3])


def test_numbers_pass_as_they_are_and_words_are_chosen_from_the_record():
    memory = Memory.fresh(4)
    memory.solved_K = np.array([5.0, 3.0, 1.0, 0.0, 1.0])
    plain = Recipe(objective="rl2ml", objective_args={"alpha": 1.5})
    assert objective_arguments(plain, memory)["alpha"] == 1.5
    auto = plain.replace(objective_args={"alpha": "auto", "metric": "pass@4", "score_noise": 0.1})
    rates = (np.arange(5) + 0.5) / 5
    expected = best_alpha("pass@4", rates, 4, weights=memory.solved_K, score_noise=0.1)
    assert objective_arguments(auto, memory)["alpha"] == pytest.approx(expected)
    least = plain.replace(
        objective_args={"alpha": 1.0, "estimator": "score_baseline", "baseline": "optimal"}
    )
    found = objective_arguments(least, memory)
    assert found["alpha"] == 1.0
    assert found["baseline"] == pytest.approx(
        optimal_baseline(rates, 4, 1.0, weights=memory.solved_K)
    )


def test_the_chosen_alpha_follows_metric_and_record():
    hard, easy = Memory.fresh(8), Memory.fresh(8)
    hard.solved_K = np.array([60.0, 20, 5, 1, 1, 1, 1, 1, 1])
    easy.solved_K = hard.solved_K[::-1].copy()

    def alpha(metric, memory):
        args = {"alpha": "auto", "metric": metric}
        return objective_arguments(Recipe(objective="rl2ml", objective_args=args), memory)["alpha"]

    assert alpha("pass@1", hard) < alpha("pass@8", hard) <= alpha("pass@64", hard)
    assert alpha("pass@8", hard) != alpha("pass@8", easy)


def test_a_choice_without_effect_asks_for_a_larger_group():
    for estimator, needed in (("zero_sum", 3), ("direct", 2)):
        args = {"alpha": "auto", "estimator": estimator}
        with pytest.raises(WorkbenchError, match=f"needs at least {needed}"):
            Recipe(objective="rl2ml", objective_args=args, group_size=needed - 1)


def auto_of_ones_own(rewards_PG, *, alpha):
    return rewards_PG


def test_words_in_an_objective_of_ones_own_are_its_own_business():
    recipe = Recipe(objective=auto_of_ones_own, objective_args={"alpha": "auto"})
    assert objective_arguments(recipe, Memory.fresh(4)) == {"alpha": "auto"}


def test_rewards_beyond_0_to_1_say_nothing_of_success_rates():
    memory = Memory.fresh(2)
    before = memory.solved_K.copy()
    remember_groups(memory, torch.tensor([[2.0, 0.0]]))
    remember_groups(memory, torch.tensor([[-0.5, 1.0]]))
    assert np.array_equal(memory.solved_K, before)


def test_a_new_anchor_or_beta_starts_from_the_beta_that_was_asked_for():
    memory, recipe = Memory.fresh(2), Recipe(beta=0.1, kl_target=0.02)
    begin_step(memory, recipe, 1)
    adapt_beta(memory, recipe, 1.0)
    begin_step(memory, recipe, 1)
    assert effective_beta(recipe, memory) == pytest.approx(0.11)
    for change in ({"beta": 0.3}, {"anchor": "sage"}, {"anchor_args": {"estimator": "k3"}}):
        changed = recipe.replace(**change)
        held = Memory.fresh(2)
        held.load(memory.to_dict(), None)
        begin_step(held, changed, 1)
        assert effective_beta(changed, held) == changed.beta


def test_a_target_long_out_of_reach_does_not_wind_beta_up_without_end():
    memory, recipe = Memory.fresh(2), Recipe(beta=0.1, kl_target=0.02)
    for _ in range(200):
        adapt_beta(memory, recipe, 0.0)
    assert memory.beta_factor == 0.05
    for _ in range(400):
        adapt_beta(memory, recipe, 9.0)
    assert memory.beta_factor == 20.0


def test_beta_rises_above_the_target_falls_below_and_rests_without_one():
    memory, recipe = Memory.fresh(2), Recipe(beta=0.1, kl_target=0.02)
    adapt_beta(memory, recipe, 0.03)  # half above: a twentieth more
    assert effective_beta(recipe, memory) == pytest.approx(0.1 * 1.05)
    adapt_beta(memory, recipe, 1.0)  # far above: the most, a tenth
    assert memory.beta_factor == pytest.approx(1.05 * 1.1)
    adapt_beta(memory, recipe, -0.5)
    assert memory.beta_factor == pytest.approx(1.05 * 1.1 * 0.9)
    without = recipe.replace(kl_target=0.0)
    assert effective_beta(without, memory) == 0.1
    adapt_beta(memory, without, 1.0)
    assert memory.beta_factor == 1.0


def test_it_survives_a_checkpoint_and_another_group_size_starts_anew():
    memory = Memory(np.array([1.0, 2.0, 3.0]), beta_factor=1.3)
    again = Memory.fresh(2)
    again.load(memory.to_dict(), None)
    assert again.solved_K.tolist() == [1.0, 2.0, 3.0] and again.beta_factor == 1.3
    other = Memory.fresh(4)
    other.load(memory.to_dict(), None)
    assert other.solved_K.tolist() == pytest.approx([0.2] * 5) and other.beta_factor == 1.3
    other.load({}, None)  # a checkpoint from before there was a memory
    assert other.beta_factor == 1.0


def logprobs(policy, rollouts):
    with torch.no_grad():
        return read(policy, rollouts).logprobs_entropies()[0]


def test_the_reference_is_the_base_until_it_moves(policy_of):
    policy = policy_of()
    rollouts = sample(policy, PROMPTS, group_size=3, max_new_tokens=6, seed=1)
    with policy.reference():
        base = logprobs(policy, rollouts)
    own = logprobs(policy, rollouts)
    assert (own - base).abs().max() > 1e-3
    memory = Memory.fresh(3)
    for reference in (None, policy.base_adapter()):
        memory.reference = reference
        with reference_of(policy, memory):
            torch.testing.assert_close(logprobs(policy, rollouts), base, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(logprobs(policy, rollouts), own)  # the policy got its own back


def test_a_periodic_reference_becomes_the_policys_copy(policy_of):
    policy, memory = policy_of(), Memory.fresh(3)
    recipe = Recipe(reference="periodic", reference_every=3)
    rollouts = sample(policy, PROMPTS, group_size=3, max_new_tokens=6, seed=1)
    move_reference(memory, recipe, policy, step=2)
    assert memory.reference is None
    move_reference(memory, recipe, policy, step=3)
    copied = logprobs(policy, rollouts)
    with torch.no_grad():
        for _, parameter in policy.trainable():
            parameter.mul_(0.3)
    assert (logprobs(policy, rollouts) - copied).abs().max() > 1e-3
    with reference_of(policy, memory):
        torch.testing.assert_close(logprobs(policy, rollouts), copied)
    fixed = recipe.replace(reference="fixed")
    move_reference(memory, fixed, policy, step=6)
    assert memory.reference is not None  # until the next step begins
    begin_step(memory, fixed, 1)
    assert memory.reference is None


def test_the_reference_is_run_without_dropout(policy_of):
    policy, memory = policy_of(lora_dropout=0.5), Memory.fresh(3)
    rollouts = sample(policy, PROMPTS, group_size=3, max_new_tokens=6, seed=1)
    memory.reference = {name: p.detach().clone() for name, p in policy.trainable()}
    before = torch.get_rng_state()
    with reference_of(policy, memory):
        torch.testing.assert_close(logprobs(policy, rollouts), rollouts.logprobs_BT)
    assert torch.equal(torch.get_rng_state(), before)
    assert (logprobs(policy, rollouts) - rollouts.logprobs_BT).abs().max() > 1e-3  # training has it


def test_a_moving_average_takes_in_its_share(policy_of):
    policy, memory = policy_of(), Memory.fresh(3)
    recipe = Recipe(reference="moving_average", reference_rate=0.25)
    for _ in range(2):
        move_reference(memory, recipe, policy, step=1)
    for name, parameter in policy.trainable():
        share = 1 - 0.75**2 if "lora_B" in name else 1.0  # B starts at 0, A at the policy's
        torch.testing.assert_close(memory.reference[name], share * parameter.detach())


def test_holding_another_adapter_leaves_a_graph_and_the_sampler_right(policy_of):
    policy = policy_of()
    rollouts = sample(policy, PROMPTS, group_size=2, max_new_tokens=5, seed=1)
    gradients = []
    for interrupted in (False, True):
        value = read(policy, rollouts).logprobs_entropies()[0].sum()
        if interrupted:
            with policy.holding(policy.base_adapter()):
                drawn = sample(policy, PROMPTS, group_size=2, max_new_tokens=5, seed=1)
            assert not torch.equal(drawn.logprobs_BT[0, :2], rollouts.logprobs_BT[0, :2])
        value.backward()
        gradients.append([p.grad.clone() for _, p in policy.trainable()])
        for _, parameter in policy.trainable():
            parameter.grad = None
    for one, two in zip(*gradients, strict=True):
        assert torch.equal(one, two)
    again = sample(policy, PROMPTS, group_size=2, max_new_tokens=5, seed=1)
    assert torch.equal(again.logprobs_BT, rollouts.logprobs_BT)


FLAT = {"separation": "start", "separation_args": {"switch": "flat", "tolerance": 0.02}}


def test_the_flat_rule_switches_at_the_second_evaluation_in_a_row_that_does_not_rise():
    memory, recipe = Memory.fresh(2), Recipe(**FLAT, cross_samples=1)
    note_post_pre(memory, recipe, 0, 0.30)  # before the first step begins
    begin_step(memory, recipe, 1)
    for step, score in ((10, 0.40), (20, 0.41), (30, 0.44), (40, 0.20), (50, 0.30), (60, 0.9)):
        assert not second_stage(memory, recipe, step)
        note_post_pre(memory, recipe, step, score)
        if memory.switched_at is not None:
            break
    assert memory.switched_at == 50  # 20 was flat alone; 40 and 50 are, though 50 rises from 40
    assert [step for step, _ in memory.post_pre] == [0, 10, 20, 30, 40, 50]
    assert [second_stage(memory, recipe, step) for step in (50, 51)] == [False, True]
    note_post_pre(memory, recipe, 60, 0.9)
    assert memory.switched_at == 50  # the switch is not taken back


def test_an_evaluation_that_is_repeated_counts_once():
    memory, recipe = Memory.fresh(2), Recipe(**FLAT, cross_samples=1)
    for step in (10, 20, 20, 20):
        note_post_pre(memory, recipe, step, 0.4)
    assert memory.switched_at is None and len(memory.post_pre) == 2


@pytest.mark.parametrize(
    "change",
    [
        {"separation": "reversed", "separation_args": FLAT["separation_args"]},
        {"separation_args": {"switch": "flat", "tolerance": 0.03}},
        {"separation_args": {"switch": "step", "step": 90}},
        {"separation": "thinking_only"},
    ],
)
def test_a_separation_that_changes_starts_without_scores(change):
    memory, recipe = Memory.fresh(2), Recipe(**FLAT, cross_samples=1)
    for step in (10, 20, 30):
        note_post_pre(memory, recipe, step, 0.4)
    held = Memory.fresh(2)
    held.load(json.loads(json.dumps(memory.to_dict())), None)  # as a checkpoint does
    begin_step(held, recipe.replace(beta=0.1), 40)
    assert held.switched_at == 30 and held.post_pre == memory.post_pre
    changed = recipe.replace(**change)
    begin_step(held, changed, 40)
    assert held.switched_at is None and held.post_pre == []
    assert not second_stage(held, changed, 40)


def test_scores_are_kept_only_where_the_rule_asks_for_them():
    for fields in ({}, {"separation": "start"}, {"separation": "answer_only"}):
        memory, recipe = Memory.fresh(2), Recipe(**fields, cross_samples=1, steps=10)
        for step in (1, 2, 3):
            note_post_pre(memory, recipe, step, 0.4)
        assert memory.post_pre == [] and memory.switched_at is None
        late = [second_stage(memory, recipe, step) for step in (5, 6)]
        assert late == [False, fields.get("separation") == "start"]


def test_a_switch_that_has_come_is_not_taken_back_by_a_longer_run():
    """Twice the steps would put a switch by share at step 20, after 15 steps of which five came later."""
    memory, recipe = Memory.fresh(2), Recipe(separation="start", steps=20)
    for step in range(1, 16):
        begin_step(memory, recipe, step)
        assert second_stage(memory, recipe, step) == (step > 10)
    longer = recipe.replace(steps=40)
    for step in (16, 17):
        begin_step(memory, longer, step)
        assert second_stage(memory, longer, step)
    held = Memory.fresh(2)
    held.load(json.loads(json.dumps(memory.to_dict())), None)
    begin_step(held, longer, 18)
    assert second_stage(held, longer, 18)
    later = longer.replace(separation_args={"share": 0.75})  # asked for anew: it counts from here
    begin_step(held, later, 18)
    assert not second_stage(held, later, 18)


def test_a_longer_run_puts_off_a_switch_that_is_still_to_come():
    memory, recipe = Memory.fresh(2), Recipe(separation="start", steps=20)
    begin_step(memory, recipe, 10)
    longer = recipe.replace(steps=40)
    begin_step(memory, longer, 11)
    assert [second_stage(memory, longer, step) for step in (11, 20, 21)] == [False, False, True]
