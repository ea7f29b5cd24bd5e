"""One step of training: its gradient against autograd, what it skips, and that it repeats itself."""

import dataclasses

import pytest
import torch

from workbench import trainer
from workbench.anchors import ANCHORS
from workbench.memory import objective_arguments
from workbench.objectives import OBJECTIVES
from workbench.rewards import REWARDS
from workbench.surrogates import SURROGATES
from workbench.trainer import NonFiniteError, prepare, train_step
from workbench.variants import WorkbenchError


def adapter(state):
    return torch.cat([parameter.detach().flatten() for _, parameter in state.policy.trainable()])


def gradients(state):
    return torch.cat([parameter.grad.flatten() for _, parameter in state.policy.trainable()])


@pytest.fixture
def no_step(monkeypatch):
    """Keep the gradient: neither clip nor step nor zero it."""

    def keep(state, recipe, report, sums):
        sums["updates"] += 1

    monkeypatch.setattr(trainer, "clip_and_step", keep)


def naive_gradient(state, report, penalty=lambda logprobs, reference: 0.0):
    """Gradient of -(1/B) sum_i A_i sum_t log pi, each completion run alone and whole."""
    for _, parameter in state.policy.trainable():
        parameter.grad = None
    rollouts = report.rollouts
    loss = 0.0
    for b in range(rollouts.B):
        p, length = b // rollouts.G, int(rollouts.lengths_B[b])
        prompt = rollouts.prompt_ids_PL[p][rollouts.prompt_mask_PL[p]]
        tokens = rollouts.completion_ids_BT[b, :length]
        ids = torch.cat((prompt, tokens))[None]

        def logprobs(ids=ids, tokens=tokens, start=len(prompt)):
            logits = state.policy.model(ids).logits[0, start - 1 : -1]
            return logits.float().log_softmax(-1).gather(1, tokens[:, None])[:, 0]

        with torch.no_grad(), state.policy.reference():
            reference = logprobs()
        mine = logprobs()
        advantage = report.advantages_PG.flatten()[b]
        loss = loss + (-advantage * mine + penalty(mine, reference)).sum() / rollouts.B
    loss.backward()
    return gradients(state)


def test_the_gradient_is_that_of_the_written_loss(toy_recipe, no_step):
    state = prepare(toy_recipe.replace(quantize="none"))
    move_off_the_base(state)
    report = train_step(state, toy_recipe)
    found = gradients(state)
    torch.testing.assert_close(found, naive_gradient(state, report), atol=1e-6, rtol=1e-4)
    assert found.abs().max() > 1e-4


def move_off_the_base(state):
    """LoRA starts at B = 0, where the gradient of A is 0 whatever the loss; move away from there."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for _, parameter in state.policy.trainable():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    state.policy.refresh_sampler()


def test_the_anchor_adds_beta_times_its_penalty(toy_recipe, no_step):
    recipe = toy_recipe.replace(beta=0.5, quantize="none")
    state = prepare(recipe)
    move_off_the_base(state)
    report = train_step(state, recipe)
    found = gradients(state)
    expected = naive_gradient(state, report, lambda mine, ref: 0.5 * (ref - mine).square() / 2)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-4)


def test_a_penalty_in_the_reward_moves_the_advantages_token_by_token(toy_recipe, no_step):
    """Against autograd with the credit written out: penalties to come, less the others' of the group."""
    arguments = {"estimator": "k1", "place": "reward"}
    recipe = toy_recipe.replace(beta=0.5, quantize="none", anchor_args=arguments)
    state = prepare(recipe)
    move_off_the_base(state)
    report = train_step(state, recipe)
    found = gradients(state)
    rollouts, size = report.rollouts, recipe.group_size
    to_go = []  # of each completion, its k1 from each token on

    def note(mine, reference):
        to_go.append((mine - reference).detach().flip(0).cumsum(0).flip(0))
        return 0.0 * mine

    naive_gradient(state, report, note)

    def credited(b, mine):
        others = [to_go[i] for i in range(b // size * size, b // size * size + size) if i != b]
        padded = [torch.nn.functional.pad(x, (0, rollouts.T))[: len(mine)] for x in others]
        return 0.5 * (to_go[b] - sum(padded) / len(others)) * mine

    rows = iter(range(rollouts.B))
    expected = naive_gradient(state, report, lambda mine, reference: credited(next(rows), mine))
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-3)
    plain = naive_gradient(state, report)
    assert (found - plain).abs().max() > 1e-3


def test_a_guide_of_one_is_the_plain_anchor_bit_for_bit(toy_recipe):
    found = []
    flat = {"guide": "branch", "ratio": 0.0}
    rows = [("reverse_kl", {"estimator": "k3"}), ("sage", flat), ("scaled_beta", flat),
            ("matched_beta", flat)]  # fmt: skip
    for anchor, arguments in rows:
        recipe = toy_recipe.replace(beta=0.3, anchor=anchor, anchor_args=arguments)
        state = prepare(recipe)
        move_off_the_base(state)
        for _ in range(2):
            train_step(state, recipe)
        found.append(adapter(state))
    assert all(torch.equal(found[0], each) for each in found[1:])


@pytest.mark.parametrize("anchor", sorted(ANCHORS))
@pytest.mark.parametrize("first", [True, False])
def test_microbatches_leave_every_anchors_gradient_unchanged(toy_recipe, no_step, anchor, first):
    """With each row's defaults, and with the last choice of its first parameter."""
    params = ANCHORS[anchor].params
    arguments = {} if first or not params else {params[0].name: params[0].choices[-1]}
    found = []
    for microbatch in (256, 5):
        recipe = toy_recipe.replace(
            microbatch=microbatch, beta=0.5, anchor=anchor, anchor_args=arguments
        )
        state = prepare(recipe)
        move_off_the_base(state)
        train_step(state, recipe)
        found.append(gradients(state))
    largest = float(found[0].abs().max())  # sums in fp32 are off by a part of their largest terms
    torch.testing.assert_close(found[0], found[1], atol=1e-6 * largest, rtol=1e-4)
    assert largest > 1e-3


@pytest.mark.parametrize("surrogate", sorted(SURROGATES))
def test_every_surrogate_starts_along_the_policy_gradient(toy_recipe, no_step, surrogate):
    """In the first update the ratio is 1, and all rows have REINFORCE's gradient; sapo's too."""
    found = []
    for name in ("reinforce", surrogate):
        recipe = toy_recipe.replace(surrogate=name, quantize="none")
        state = prepare(recipe)
        move_off_the_base(state)
        train_step(state, recipe)
        found.append(gradients(state))
    torch.testing.assert_close(found[1], found[0], atol=1e-5, rtol=1e-3)


def test_alpha_auto_is_chosen_before_the_step_and_shown(toy_recipe):
    recipe = toy_recipe.replace(
        rewards={"length": 1.0}, objective="rl2ml", objective_args={"alpha": "auto"}
    )
    state = prepare(recipe)
    expected = objective_arguments(recipe, state.memory)["alpha"]
    report = train_step(state, recipe)
    assert report.metrics["train/alpha"] == expected
    fixed = toy_recipe.replace(
        rewards={"length": 1.0}, objective="rl2ml", objective_args={"alpha": expected}
    )
    again = prepare(fixed)
    train_step(again, fixed)
    assert torch.equal(adapter(state), adapter(again))
    assert state.memory.solved_K.sum() > 3  # the step's three groups have been counted


def dead_where_even(rewards_PG):
    """Every other group without signal, as a stand-in for groups that are all right or all wrong."""
    advantages_PG = rewards_PG - rewards_PG.mean(-1, keepdim=True)
    advantages_PG[::2] = 0.0
    return advantages_PG


def test_a_reference_that_is_fixed_again_is_the_base_from_that_step_on(toy_recipe):
    recipe = toy_recipe.replace(
        beta=0.1, reference="periodic", reference_every=1, learning_rate=0.05
    )
    state = prepare(recipe)
    for _ in range(2):
        train_step(state, recipe)
    assert abs(train_step(state, recipe).metrics["train/kl"]) < 1e-6  # to its own copy
    fixed = recipe.replace(reference="fixed")
    assert abs(train_step(state, fixed).metrics["train/kl"]) > 1e-4  # to the base


def test_the_kl_is_measured_before_a_refill_chooses_by_reward(toy_recipe):
    plain = toy_recipe.replace(objective=dead_where_even, beta=0.1)
    found = []
    for rounds in (0, 2):
        recipe = plain.replace(refill_rounds=rounds)
        state = prepare(recipe)
        move_off_the_base(state)
        report = train_step(state, recipe)
        found.append((report.metrics["train/kl"], report.metrics["groups/refilled"]))
    assert found[0][0] == pytest.approx(found[1][0], abs=1e-7) and found[0][0] != 0
    assert found[0][1] == 0 < found[1][1]


def test_beta_is_shown_as_0_where_nothing_is_anchored(toy_recipe):
    recipe = toy_recipe.replace(beta=0.3, anchor="none")
    assert train_step(prepare(recipe), recipe).metrics["train/beta"] == 0.0


def test_alpha_and_baseline_are_shown_where_they_are_used(toy_recipe):
    plain = {"rewards": {"length": 1.0}, "objective": "rl2ml"}
    shown = []
    for arguments in ({}, {"estimator": "score_baseline", "baseline": "optimal"}):
        recipe = toy_recipe.replace(**plain, objective_args=arguments)
        metrics = train_step(prepare(recipe), recipe).metrics
        shown.append({k: v for k, v in metrics.items() if k in ("train/alpha", "train/baseline")})
    assert shown[0] == {"train/alpha": 1.0}
    assert shown[1]["train/alpha"] == 1.0 and 0 < shown[1]["train/baseline"] < 2


def test_refill_replaces_groups_without_signal_and_counts_them(toy_recipe):
    plain = toy_recipe.replace(objective=dead_where_even)
    refilling = plain.replace(refill_rounds=1)
    before = train_step(prepare(plain), plain)
    after = train_step(prepare(refilling), refilling)
    assert (
        before.metrics["groups/zero_signal"]
        == after.metrics["groups/zero_signal"]
        == pytest.approx(2 / 3)
    )
    assert before.metrics["groups/refilled"] == 0.0
    assert after.metrics["groups/refilled"] == pytest.approx(
        1 / 3
    )  # of two drawn, the first is dead again
    assert after.rollouts.prompts[1:] == before.rollouts.prompts[1:]
    assert after.rollouts.prompts[0] != before.rollouts.prompts[0]
    assert (after.advantages_PG[0] != 0).any()


@pytest.mark.parametrize("aggregation", ["sum", "token_mean", "sequence_mean", "fixed_length"])
def test_microbatches_leave_the_gradient_unchanged(toy_recipe, no_step, aggregation):
    found = []
    for microbatch in (256, 5):
        recipe = toy_recipe.replace(microbatch=microbatch, aggregation=aggregation)
        state = prepare(recipe)
        train_step(state, recipe)
        found.append(gradients(state))
    largest = float(found[0].abs().max())  # sums in fp32 are off by a part of their largest terms
    torch.testing.assert_close(found[0], found[1], atol=1e-6 * largest, rtol=1e-4)
    assert largest > 1e-3


def first_group_only(rewards_PG):
    advantages_PG = rewards_PG - rewards_PG.mean(-1, keepdim=True)
    advantages_PG[1:] = 0.0
    return advantages_PG


def test_groups_without_signal_are_counted_and_cost_no_forward_pass(
    toy_recipe, no_step, monkeypatch
):
    seen = []
    whole = trainer.read

    def spy(policy, rollouts, indices=None):
        seen.append(None if indices is None else indices.tolist())
        return whole(policy, rollouts, indices)

    monkeypatch.setattr(trainer, "read", spy)
    recipe = toy_recipe.replace(objective=first_group_only, quantize="none")
    state = prepare(recipe)
    report = train_step(state, recipe)
    assert report.metrics["groups/zero_signal"] == pytest.approx(2 / 3)
    assert seen == [[0, 1, 2, 3]]
    # The mean still runs over all completions: same gradient as without skipping.
    torch.testing.assert_close(
        gradients(state), naive_gradient(state, report), atol=1e-6, rtol=1e-4
    )


def no_signal(rewards_PG):
    return rewards_PG * 0


def test_a_batch_without_signal_changes_nothing_unless_an_anchor_pulls(toy_recipe):
    recipe = toy_recipe.replace(objective=no_signal)
    state = prepare(recipe)
    move_off_the_base(state)
    before = adapter(state)
    report = train_step(state, recipe)
    assert torch.equal(adapter(state), before)
    assert report.metrics["groups/zero_signal"] == 1.0
    assert report.metrics["train/grad_norm"] == 0.0
    train_step(state, recipe.replace(beta=0.1))
    assert not torch.equal(adapter(state), before)


def test_epochs_and_minibatches_multiply_the_updates_and_move_the_ratio(toy_recipe, monkeypatch):
    updates = []
    step = trainer.clip_and_step
    monkeypatch.setattr(trainer, "clip_and_step", lambda *a: (updates.append(1), step(*a)))
    recipe = toy_recipe.replace(epochs=2, minibatches=3, surrogate="ppo_clip")
    report = train_step(prepare(recipe), recipe)
    assert len(updates) == 6
    assert report.metrics["train/ratio_gap"] > 1e-4  # later updates see a policy that has moved
    assert report.metrics["train/mismatch"] < 1e-5  # the first one does not


EXACT_IN_REWARD = {"beta": 0.2, "anchor_args": {"estimator": "exact", "place": "reward"}}


@pytest.mark.parametrize(
    "anchor", [{}, EXACT_IN_REWARD, {"beta": 0.2, "reference": "moving_average"}]
)
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_a_step_repeats_itself_and_leaves_the_global_generator_alone(toy_recipe, dropout, anchor):
    recipe = toy_recipe.replace(lora_dropout=dropout, **anchor)
    found = []
    for noise in (0, 123):
        torch.manual_seed(noise)
        before = torch.get_rng_state()
        state = prepare(recipe)
        for _ in range(3):
            train_step(state, recipe)
        found.append(adapter(state))
        assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(found[0], found[1])


def test_dropout_changes_the_update_but_not_the_sampling(toy_recipe):
    found = []
    for dropout in (0.0, 0.5):
        recipe = toy_recipe.replace(lora_dropout=dropout)
        state = prepare(recipe)
        move_off_the_base(state)
        report = train_step(state, recipe)
        found.append(
            (report.rollouts.completions, adapter(state), report.metrics["train/mismatch"])
        )
    assert found[0][0] == found[1][0]
    assert not torch.equal(found[0][1], found[1][1])
    assert found[0][2] < 1e-5 < found[1][2]


def test_training_raises_the_reward_that_has_weight(toy_recipe):
    recipe = toy_recipe.replace(learning_rate=0.1, group_size=8, prompts_per_step=4)
    state = prepare(recipe)
    rewards = [train_step(state, recipe).metrics["reward/digits"] for _ in range(30)]
    assert sum(rewards[-5:]) / 5 > 1.5 * sum(rewards[:5]) / 5


def test_weight_zero_measures_without_training(toy_recipe):
    found = []
    for extra in ({}, {"format": 0.0}):
        recipe = toy_recipe.replace(rewards={**toy_recipe.rewards, **extra})
        state = prepare(recipe)
        report = train_step(state, recipe)
        assert ("reward/format" in report.metrics) == bool(extra)
        found.append(adapter(state))
    assert torch.equal(found[0], found[1])


def test_every_pair_of_objective_and_reward_trains_or_is_refused_before_the_run(
    toy_recipe, toy_scribe
):
    """A person who toggles through the tables never meets a pair that ends a run."""
    with pytest.raises(WorkbenchError, match="choose the task 'instructions'"):
        toy_recipe.replace(rewards={"constraints": 1.0})
    instructed = toy_recipe.replace(
        model=toy_scribe,
        task="instructions",
        task_args={"chains": 6},
        rewards={"constraints": 1.0},
        reward_args={"constraints": {"scorer": "rules"}},
    )
    worlds = [(recipe, prepare(recipe)) for recipe in (toy_recipe, instructed)]
    refused = set()
    for objective, row in OBJECTIVES.items():
        changes = {"k": 2} if "k" in row.defaults else {}
        changes |= {"beta": [2.0, 1.0, 0.5]} if "beta" in row.defaults else {}
        for reward in REWARDS:
            fields = {"objective": objective, "objective_args": changes, "rewards": {reward: 1.0}}
            base, state = worlds[reward == "constraints"]
            try:
                recipe = base.replace(**fields)
            except WorkbenchError:
                refused.add((objective, reward))
                continue
            report = train_step(state, recipe)
            assert report.advantages_PG.isfinite().all(), objective
    ends = {name: row.bounds for name, row in OBJECTIVES.items() if row.bounds}
    outside = {
        (objective, reward)
        for objective, (low, high) in ends.items()
        for reward, row in REWARDS.items()
        if row.range_with({})[0] < low or row.range_with({})[1] > high
    }
    assert refused == outside and len(ends) == 7
    assert {("maxrl", "ent"), ("rl2ml", "collision"), ("rl2ml", "overlong")} <= refused


def test_the_random_reward_depends_on_seed_and_step_and_not_on_the_microbatch(toy_recipe):
    recipe = toy_recipe.replace(rewards={"random": 1.0})
    found = []
    for microbatch in (1, 256):
        state = prepare(recipe)
        changed = recipe.replace(microbatch=microbatch)
        found.append([train_step(state, changed).rewards["random"] for _ in range(2)])
    assert torch.equal(found[0][0], found[1][0]) and torch.equal(found[0][1], found[1][1])
    assert not torch.equal(found[0][0], found[0][1])


def test_votes_and_trained_rollouts_may_differ_in_number(toy_recipe):
    recipe = toy_recipe.replace(rewards={"majority_vote": 1.0}, extra_votes=4, refill_rounds=1)
    report = train_step(prepare(recipe), recipe)
    assert (report.rollouts.G, report.rollouts.B) == (4, 12)
    assert tuple(report.advantages_PG.shape) == (3, 4)
    assert report.metrics["reward_std/total"] == report.metrics["reward_std/majority_vote"]


def broken_objective(rewards_PG):
    return rewards_PG * float("nan")


def misshapen_objective(rewards_PG):
    return rewards_PG.mean(-1)


def test_a_non_finite_gradient_stops_with_the_batch_and_touches_nothing(toy_recipe):
    recipe = toy_recipe.replace(objective=broken_objective)
    state = prepare(recipe)
    before = adapter(state)
    with pytest.raises(NonFiniteError, match="Step 1 has loss nan.*Lower learning_rate") as caught:
        train_step(state, recipe)
    assert caught.value.report.rollouts.B == 12
    assert torch.equal(adapter(state), before)
    assert all(parameter.grad is None for _, parameter in state.policy.trainable())


def test_an_objective_of_the_wrong_shape_is_named(toy_recipe):
    recipe = toy_recipe.replace(objective=misshapen_objective)
    with pytest.raises(WorkbenchError, match=r"returned shape \(3,\); return one.*\(3, 4\)"):
        train_step(prepare(recipe), recipe)


def test_the_docstring_lists_every_metric(toy_recipe):
    metrics = train_step(prepare(toy_recipe), toy_recipe, measure_kl=True).metrics
    text = train_step.__doc__
    assert "train/kl" in metrics
    for key in metrics:
        start, _, _ = key.partition("/")
        assert (f"{start}/<name>" if start in ("reward", "reward_std") else key) in text, key


def test_the_kl_shown_is_zero_at_the_base(toy_recipe):
    report = train_step(prepare(toy_recipe), toy_recipe, measure_kl=True)
    assert report.metrics["train/kl"] == pytest.approx(0.0, abs=1e-6)
    assert dataclasses.is_dataclass(report)


@pytest.mark.parametrize(("held_out", "first"), [(9, 6), (4, 1), (2, 0)])
def test_probes_take_the_held_out_prompts_from_the_other_end(toy_recipe, held_out, first):
    """Two are evaluated, three probed: others wherever there are enough."""
    recipe = toy_recipe.replace(probe_prompts=3, task_args={"eval_rows": held_out})
    state = prepare(recipe)
    rows = list(state.task.dataset("eval"))
    assert state.eval_rows == rows[:2]
    assert state.probe_rows == rows[first:]


def test_answers_of_the_initial_model_are_left_out_of_what_is_said_of_the_policy(toy_recipe):
    recipe = toy_recipe.replace(
        quantize="none", answers_per_thought=2, answerer="initial", temperature=2.0
    )
    state = prepare(recipe)
    with torch.no_grad():
        for _, parameter in state.policy.trainable():
            parameter.add_(0.1)
    common = int(train_step(state, toy_recipe.replace(quantize="none")).rollouts
                 .completion_ids_BT.flatten().mode().values)  # fmt: skip
    state.policy.thought_end_id = lambda: common  # thoughts close now and then
    report = train_step(state, recipe, measure_kl=True)
    rollouts, metrics = report.rollouts, report.metrics
    frozen_BT = rollouts.mask_BT & ~rollouts.sampled_BT
    assert frozen_BT.sum() > 5
    entropy = rollouts.entropies_BT[rollouts.sampled_BT].mean()
    assert metrics["train/entropy"] == pytest.approx(float(entropy), abs=1e-6)
    assert metrics["train/mismatch"] < 1e-3  # the initial model's log-probs are further away
    assert metrics["train/kl"] != 0
    values_PK = report.total_PG.view(3, 2, 2).mean(-1)
    wanted = OBJECTIVES["rloo"](values_PK).repeat_interleave(2, 1)
    torch.testing.assert_close(report.thought_advantages_PG, wanted)
