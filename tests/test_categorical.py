"""The world of one question: closed forms against maximisation, ascent and the real rows of ANCHORS."""

import numpy as np
import pytest
import torch

from workbench import categorical as cat
from workbench.anchors import ANCHORS, AnchorTokens
from workbench.variants import WorkbenchError

WORLD = cat.make_world()
ANCHORED = [row for row in cat.ROWS if row not in ("none", "k1")]
REVERSE, FORWARD = ("k2", "exact", "faithful"), ("k3", "forward_kl", "sage")


def divergence(row, policy, world):
    """What each row really descends."""
    anchor = world.tilted_A if row in ("sage", "faithful") else world.reference_A
    if row in REVERSE:
        return cat.reverse_kl(policy, anchor)
    return cat.reverse_kl(anchor, policy) * (world.mass if row == "sage" else 1.0)


def objective(row, policy, world, beta):
    return cat.accuracy(policy, world) - beta * divergence(row, policy, world)


def test_the_world_is_a_distribution_with_right_and_wrong_answers():
    assert len(WORLD.reference_A) == 24 and WORLD.right_A.sum() == 8
    assert WORLD.reference_A.sum() == pytest.approx(1) and WORLD.tilted_A.sum() == pytest.approx(1)
    assert (np.diff(WORLD.reference_A) < 0).all() and (np.diff(WORLD.q_A) > 0).all()
    assert WORLD.q_A[[0, -1]].tolist() == [0.6, 1.4]
    with pytest.raises(WorkbenchError, match="at least 1 and not all"):
        cat.make_world(answers=4, right=4)


# ------------------------------------------------------------------ optima


@pytest.mark.parametrize("beta", [0.05, 0.3, 2.0])
@pytest.mark.parametrize("row", ANCHORED)
def test_the_closed_form_is_the_best_policy(row, beta):
    best = cat.optimum(row, WORLD, beta)
    assert best.sum() == pytest.approx(1, abs=1e-12)
    value = objective(row, best, WORLD, beta)
    generator = np.random.default_rng(0)
    for size in (0.01, 0.1, 1.0):
        for _ in range(30):
            other = cat.softmax(np.log(best) + size * generator.standard_normal(24))
            assert objective(row, other, WORLD, beta) < value


@pytest.mark.parametrize("row", ANCHORED)
def test_at_the_optimum_the_row_s_own_pull_balances_the_reward(row):
    best = cat.optimum(row, WORLD, 0.3)
    gain = WORLD.right_A - 0.3 * cat.coefficients(row, best, WORLD)
    assert abs(cat.mean_gradient(gain, best)).max() < 1e-12


def test_wrong_answers_keep_the_mass_of_sage_md_section_4():
    """beta 0.05 and a quarter right: 3.7e-2 under forward KL, 6e-9 under reverse KL."""
    world = cat.World(np.array([True, False]), np.array([0.25, 0.75]), np.ones(2))
    assert cat.optimum("k3", world, 0.05)[1] == pytest.approx(3.7e-2, rel=0.01)
    assert cat.optimum("k2", world, 0.05)[1] == pytest.approx(3 * np.exp(-20), rel=1e-6)


def test_reverse_kl_keeps_the_proportions_of_right_answers_and_q_changes_them():
    right, beta = WORLD.right_A, 0.2
    plain, tilted = cat.optimum("k2", WORLD, beta), cat.optimum("faithful", WORLD, beta)
    share = WORLD.reference_A[right] / WORLD.reference_A[right].sum()
    np.testing.assert_allclose(plain[right] / plain[right].sum(), share)
    np.testing.assert_allclose(tilted, plain * WORLD.q_A / (plain @ WORLD.q_A))  # sage.md 2.2 (2)
    limit = cat.optimum("none", WORLD, 0.0)
    np.testing.assert_allclose(limit[right], share)
    np.testing.assert_allclose(cat.optimum("k2", WORLD, 0.01), limit, atol=1e-12)


def test_sage_is_the_plain_objective_with_a_bonus_of_beta_log_q():
    """sage.md 2.2 (1), for any policy."""
    policy = cat.softmax(np.random.default_rng(3).standard_normal(24))
    bonus = 0.4 * (policy @ np.log(WORLD.q_A) - np.log(WORLD.mass))
    shaped = objective("faithful", policy, WORLD, 0.4)
    assert shaped == pytest.approx(objective("k2", policy, WORLD, 0.4) + bonus, abs=1e-12)


def test_a_constant_q_does_nothing_to_the_faithful_optimum():
    tripled = cat.World(WORLD.right_A, WORLD.reference_A, 3 * WORLD.q_A)
    np.testing.assert_allclose(
        cat.optimum("faithful", tripled, 0.3), cat.optimum("faithful", WORLD, 0.3)
    )
    flat = cat.World(WORLD.right_A, WORLD.reference_A, np.full(24, 1.3))
    np.testing.assert_allclose(cat.optimum("faithful", flat, 0.3), cat.optimum("k2", WORLD, 0.3))
    np.testing.assert_allclose(cat.optimum("sage", flat, 0.3), cat.optimum("k3", WORLD, 0.39))


def test_the_odds_of_a_right_answer_move_by_the_mean_q_of_right_over_wrong():
    """sage.md 2.2 (3)."""
    plain, tilted = (cat.optimum(row, WORLD, 0.3) for row in ("k2", "faithful"))
    right, q = WORLD.right_A, WORLD.q_A

    def odds(policy):
        return policy[right].sum() / policy[~right].sum()

    def mean_q(wanted):
        return (plain * q)[wanted].sum() / plain[wanted].sum()

    assert odds(tilted) / odds(plain) == pytest.approx(mean_q(right) / mean_q(~right))


# ------------------------------------------------------------------ training


@pytest.mark.parametrize("row", list(cat.ROWS))
def test_the_pull_is_that_of_the_row_in_the_table(row):
    """The mean of each real row's autograd gradient (or of its penalty times the score, in the reward)."""
    name, arguments = {
        "none": ("none", {}),
        "forward_kl": ("forward_kl", {}),
        "sage": ("sage", {"guide": "branch", "q_min": 0.05, "q_max": 5.0}),
        "faithful": ("sage", {"form": "faithful", "q_min": 0.05, "q_max": 5.0}),
    }.get(row, ("reverse_kl", {"estimator": row}))
    logits = torch.tensor(np.random.default_rng(5).standard_normal(24)).requires_grad_()
    logp = logits.log_softmax(0)
    reference = torch.tensor(np.log(WORLD.reference_A))
    # Entropies for which branch gives q from 1 to 1.8; each answer is a completion of one token.
    entropies = torch.tensor(1.2 + (WORLD.q_A - 0.6) / 0.3)
    q = 1 + 0.3 * (entropies - 1.2)
    world = cat.World(WORLD.right_A, WORLD.reference_A, q.numpy())
    kls = {
        "reverse": (logp.exp() * (logp - reference)).sum(),
        "forward": (reference.exp() * (reference - logp)).sum(),
    }
    tokens = AnchorTokens(
        logp[:, None], reference[:, None], torch.ones(24, 1, dtype=torch.bool), entropies[:, None],
        1, 1, torch.zeros(2, 24, 1), exact=lambda direction: kls[direction].expand(24, 1),
    )  # fmt: skip
    penalty = ANCHORS[name](tokens, **arguments)[:, 0]
    if ANCHORS[name].acts_in_reward(arguments):
        penalty = penalty * logp
    (logp.exp().detach() * penalty).sum().backward()
    policy = logp.detach().exp().numpy()
    expected = cat.mean_gradient(cat.coefficients(row, policy, world), policy)
    np.testing.assert_allclose(logits.grad.numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("row", ANCHORED)
def test_ascent_reaches_the_optimum_where_the_anchor_is_strong(row):
    path = cat.train(row, WORLD, 0.5, steps=2_000)
    assert path.shape == (2_001, 24)
    np.testing.assert_allclose(path[0], WORLD.reference_A)
    assert abs(path[-1] - cat.optimum(row, WORLD, 0.5)).sum() / 2 < 2e-3


def test_without_an_anchor_ascent_ends_on_few_right_answers():
    """Every policy on right answers is best; the ascent picks those that were likely at the start."""
    for row in ("none", "k1"):
        reached = cat.train(row, WORLD, 0.5)[-1]
        assert cat.accuracy(reached, WORLD) > 0.999
        assert cat.coverage(reached, WORLD, 64) < 0.2
        assert cat.coverage(cat.optimum(row, WORLD, 0.5), WORLD, 64) > 0.9


@pytest.mark.parametrize("row", ["k1", "k2", "forward_kl", "sage"])
def test_drawn_steps_have_the_exact_step_as_their_mean(row):
    policy = cat.softmax(np.random.default_rng(7).standard_normal(24))
    penalty = 0.3 * cat.coefficients(row, policy, WORLD)
    generator = np.random.default_rng(8)
    drawn = [cat._sampled(WORLD, policy, penalty, row, 4, generator) for _ in range(10_000)]
    exact = cat.mean_gradient(WORLD.right_A - penalty, policy)
    noise = np.std(drawn, axis=0) / np.sqrt(len(drawn))
    assert (abs(np.mean(drawn, axis=0) - exact) < 5 * noise + 1e-9).all()


def test_drawn_training_is_fixed_by_its_seed():
    paths = [cat.train("k2", WORLD, 0.3, steps=20, draws=8, seed=seed) for seed in (1, 1, 2)]
    np.testing.assert_array_equal(paths[0], paths[1])
    assert not np.array_equal(paths[0], paths[2])


def test_an_unknown_row_lists_the_known():
    for function in (cat.optimum, lambda row, *_: cat.coefficients(row, WORLD.reference_A, WORLD)):
        with pytest.raises(WorkbenchError, match="Did you mean 'sage'"):
            function("sagee", WORLD, 0.1)


# ------------------------------------------------------------------ what a policy is worth


def test_pass_at_k_and_coverage_of_a_small_policy():
    world = cat.World(np.array([True, True, False]), np.ones(3) / 3, np.ones(3))
    policy = np.array([0.5, 0.1, 0.4])
    assert cat.accuracy(policy, world) == pytest.approx(0.6)
    assert cat.pass_at_k(policy, world, 2) == pytest.approx(0.84)
    assert cat.coverage(policy, world, 2) == pytest.approx((0.75 + 0.19) / 2)
    assert cat.entropy(np.full(3, 1 / 3)) == pytest.approx(np.log(3))
    assert cat.reverse_kl(np.array([0.5, 0.5]), np.array([0.25, 0.75])) == pytest.approx(
        0.5 * np.log(2) + 0.5 * np.log(2 / 3)
    )


# ------------------------------------------------------------------ the estimator zoo

POLICY, REFERENCE = np.array([0.5, 0.5]), np.array([0.25, 0.75])


def test_the_zoo_by_hand():
    """d is log(1/2) and log(3/2)."""
    k1, k2, k3 = cat.zoo(POLICY, REFERENCE)
    true = (np.log(2) + np.log(2 / 3)) / 2
    assert [k1.bias, k3.bias] == pytest.approx([0, 0], abs=1e-15)
    assert k2.bias == pytest.approx((np.log(2) ** 2 + np.log(1.5) ** 2) / 4 - true)
    assert k1.deviation == pytest.approx(np.log(3) / 2)
    assert k3.deviation == pytest.approx(abs((np.log(2) - 0.5) - (0.5 - np.log(1.5))) / 2)
    assert k1.loss_gradient_A.tolist() == pytest.approx([0, 0])
    half = np.log(3) / 4
    assert k2.loss_gradient_A.tolist() == pytest.approx([half, -half])  # reverse KL
    assert k3.loss_gradient_A.tolist() == pytest.approx([0.25, -0.25])  # policy - reference
    assert k1.reward_gradient_A.tolist() == pytest.approx([half, -half])
    assert k3.reward_gradient_A.tolist() == pytest.approx([half - 0.25, 0.25 - half])


def test_only_k2_in_the_loss_and_k1_in_the_reward_have_no_slip():
    slips = {
        (e.name, place): getattr(e, f"{place}_slip")
        for e in cat.zoo(WORLD.tilted_A, WORLD.reference_A)
        for place in ("loss", "reward")
    }
    right = {("k2", "loss"), ("k1", "reward")}
    assert all((slip < 1e-12) == (key in right) for key, slip in slips.items())
    assert slips["k1", "loss"] == pytest.approx(1)


def test_batches_of_draws_scatter_around_the_exact_mean():
    for found in cat.zoo(POLICY, REFERENCE):
        means = cat.batch_estimates(found.name, POLICY, REFERENCE, draws=25, repeats=4_000)
        assert means.mean() == pytest.approx(found.value, abs=5 * found.deviation / 300)
        assert means.std() == pytest.approx(found.deviation / 5, rel=0.1)
    with pytest.raises(WorkbenchError, match="allowed: k1, k2, k3"):
        cat.estimate("k4", POLICY, REFERENCE)
