"""The anchor over a batch: where each penalty lands, against autograd over whole sequences."""

import pytest
import torch

from workbench.anchoring import prepare_anchor, reference_completions, reference_logprobs
from workbench.anchors import ANCHORS
from workbench.memory import Memory
from workbench.reading import read
from workbench.recipe import Recipe
from workbench.rollout import sample

PROMPTS = [
    [{"role": "user", "content": text}] for text in ("make 7 from 3 4 1", "make 9 from 1 2 8 now")
]


@pytest.fixture
def made(policy_of):
    """A policy off its base, and its completions of two prompts, three each."""
    policy = policy_of()
    return policy, sample(policy, PROMPTS, group_size=3, max_new_tokens=7, seed=3)


def anchoring_of(made, anchor, arguments=None, **fields):
    policy, rollouts = made
    recipe = Recipe(anchor=anchor, anchor_args=arguments or {}, beta=0.3, group_size=3,
                    max_new_tokens=7, steps=40, **fields)  # fmt: skip
    return prepare_anchor(recipe, policy, Memory.fresh(3), rollouts, 5, PROMPTS, rollouts.mask_BT)


def penalty_of(anchoring, indices):
    indices = torch.tensor(indices)
    reading = read(anchoring.policy, anchoring.rollouts, indices)
    logprobs, entropies = reading.logprobs_entropies()
    return anchoring.penalty(reading, logprobs, entropies, indices)


def full_logprobs(policy, rollouts, b):
    """Log-probs of the whole vocabulary at each token of completion b, run alone."""
    p, length = b // rollouts.G, int(rollouts.lengths_B[b])
    prompt = rollouts.prompt_ids_PL[p][rollouts.prompt_mask_PL[p]]
    ids = torch.cat((prompt, rollouts.completion_ids_BT[b, :length]))[None]
    return policy.model(ids).logits[0, len(prompt) - 1 : -1].float().log_softmax(-1)


def gradients(policy, loss):
    for _, parameter in policy.trainable():
        parameter.grad = None
    loss.backward()
    return torch.cat([parameter.grad.flatten() for _, parameter in policy.trainable()])


@pytest.mark.parametrize("direction", ["reverse", "forward"])
def test_the_exact_kl_and_its_gradient_are_the_sums_over_the_vocabulary(made, direction):
    policy, rollouts = made
    rows = {"reverse": ("reverse_kl", {"estimator": "exact"}), "forward": ("forward_kl", {})}
    anchoring = anchoring_of(made, *rows[direction])
    found_NT = penalty_of(anchoring, [4, 1])
    naive = []
    for row, b in enumerate((4, 1)):
        mine = full_logprobs(policy, rollouts, b)
        with torch.no_grad(), policy.reference():
            base = full_logprobs(policy, rollouts, b)
        first, second = (mine, base) if direction == "reverse" else (base, mine)
        naive.append(0.3 * (first.exp() * (first - second)).sum(-1))
        torch.testing.assert_close(found_NT[row, : len(mine)], naive[-1], atol=1e-5, rtol=1e-4)
    expected = gradients(policy, torch.cat(naive).sum())
    found = gradients(policy, penalty_of(anchoring, [4, 1]).sum())
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-3)
    assert expected.abs().max() > 1e-3


def test_an_exact_kl_in_parts_is_the_same(made, monkeypatch):
    whole = penalty_of(anchoring_of(made, "forward_kl"), [0, 5])
    monkeypatch.setattr("workbench.tiles.TILE", 64 * 5)  # 5 words and 64 contexts at a time
    torch.testing.assert_close(penalty_of(anchoring_of(made, "forward_kl"), [0, 5]), whole)


def test_a_row_sees_its_own_tokens_and_the_loss_gets_beta_times_its_penalty(made):
    seen = {}

    def spy(tokens):
        seen["tokens"] = tokens
        return tokens.logprobs_BT - tokens.reference_BT

    policy, rollouts = made
    anchoring = anchoring_of(made, spy)
    found = penalty_of(anchoring, [5, 2])
    tokens = seen["tokens"]
    width = found.shape[1]
    with policy.reference(), torch.no_grad():
        base = read(policy, rollouts, [5, 2]).logprobs_entropies()[0]
    torch.testing.assert_close(tokens.reference_BT, base, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found, 0.3 * (tokens.logprobs_BT - base), atol=1e-5, rtol=1e-5)
    assert torch.equal(tokens.mask_BT, rollouts.mask_BT[[5, 2], :width])
    assert not tokens.entropies_BT.requires_grad and tokens.logprobs_BT.requires_grad
    assert (tokens.step, tokens.steps) == (5, 40)
    assert torch.equal(tokens.sampled.logprobs_BT, rollouts.logprobs_BT)
    assert torch.equal(tokens.noise_2BT, anchoring.sampled.noise_2BT[:, [5, 2], :width])
    assert anchoring.credit() is None


def test_the_noise_of_a_step_is_its_own_and_repeats(made):
    one, again = (anchoring_of(made, "sage").sampled.noise_2BT for _ in range(2))
    other = anchoring_of(made, "sage", seed=1).sampled.noise_2BT
    assert torch.equal(one, again) and not torch.equal(one, other)
    assert one[1].min() >= 0 and one[1].max() < 1 and one[0].min() < 0


def test_a_penalty_in_the_reward_is_credited_to_the_tokens_before_it(made):
    """By hand: -beta (own penalties from here on, less the mean of the two others' from here on)."""
    _, rollouts = made
    anchoring = anchoring_of(made, "reverse_kl", {"estimator": "k1", "place": "reward"})
    assert penalty_of(anchoring, [0]) is None
    k1_BT = (rollouts.logprobs_BT - anchoring.sampled.reference_BT) * rollouts.mask_BT
    found_BT = anchoring.credit()
    for b in range(rollouts.B):
        group = [i for i in range(b // 3 * 3, b // 3 * 3 + 3) if i != b]
        for t in range(rollouts.T):
            own = k1_BT[b, t:].sum()
            others = sum(k1_BT[i, t:].sum() for i in group) / 2
            expected = -0.3 * (own - others) * rollouts.mask_BT[b, t]
            torch.testing.assert_close(found_BT[b, t], expected, atol=1e-5, rtol=1e-4)
    assert found_BT.abs().max() > 1e-3


def test_answers_to_one_thought_are_no_baseline_for_it(policy_of):
    """They share its tokens: their penalties follow from what it drew, and would bias its credit."""
    policy = policy_of()
    rollouts = sample(policy, PROMPTS, group_size=6, max_new_tokens=7, seed=3)
    recipe = Recipe(anchor="reverse_kl", anchor_args={"estimator": "k1", "place": "reward"}, beta=0.3,
                    group_size=6, answers_per_thought=2, max_new_tokens=7)  # fmt: skip
    anchoring = prepare_anchor(
        recipe, policy, Memory.fresh(6), rollouts, 5, PROMPTS, rollouts.mask_BT
    )
    tokens = anchoring.sampled
    penalty_BT = (tokens.logprobs_BT - tokens.reference_BT) * tokens.mask_BT
    to_go_BT = penalty_BT.flip(-1).cumsum(-1).flip(-1)
    for b in range(rollouts.B):
        thought, first = b // 2, b // 6 * 6
        others = [o for o in range(first, first + 6) if o // 2 != thought]
        expected = -0.3 * (to_go_BT[b] - to_go_BT[others].mean(0)) * rollouts.mask_BT[b]
        torch.testing.assert_close(anchoring.credit()[b], expected)
    assert anchoring.credit().abs().max() > 1e-3


def test_exact_in_the_reward_uses_the_sums_of_every_state(made):
    policy, rollouts = made
    anchoring = anchoring_of(made, "reverse_kl", {"estimator": "exact", "place": "reward"})
    exact_BT = anchoring.sampled.exact("reverse")
    for b in (0, 5):
        with torch.no_grad():
            mine = full_logprobs(policy, rollouts, b)
            with policy.reference():
                base = full_logprobs(policy, rollouts, b)
        expected = (mine.exp() * (mine - base)).sum(-1)
        torch.testing.assert_close(exact_BT[b, : len(expected)], expected, atol=1e-5, rtol=1e-4)
    assert anchoring.credit().isfinite().all()


def test_the_references_completions_are_the_bases_own(made):
    """Drawn with the adapter at zero: what the base itself would draw with these random numbers."""
    policy, _ = made
    recipe = Recipe(group_size=8, max_new_tokens=7)
    drawn = reference_completions(recipe, policy, Memory.fresh(8), 5, PROMPTS)
    assert drawn.G == 2
    with torch.no_grad(), policy.reference():
        base = read(policy, drawn).logprobs_entropies()[0]
    torch.testing.assert_close(drawn.logprobs_BT, base, atol=1e-4, rtol=1e-4)
    with torch.no_grad():
        own = read(policy, drawn).logprobs_entropies()[0]
    assert (own - base).abs().max() > 1e-2


@pytest.mark.parametrize("microbatch", [256, 1])
def test_samples_pull_by_the_cross_entropy_of_the_references_completions(made, microbatch):
    policy, _ = made
    arguments = {"source": "samples"}
    anchoring = anchoring_of(made, "forward_kl", arguments, microbatch=microbatch)
    assert penalty_of(anchoring, [0]) is None
    drawn = anchoring.drawn
    naive = 0.0
    for b in (drawn.G * 1,):  # the minibatch below holds the second prompt only
        logprobs = full_logprobs(policy, drawn, b)
        chosen = drawn.completion_ids_BT[b, : len(logprobs), None]
        naive = naive - 0.3 * logprobs.gather(1, chosen).sum() / drawn.G
    expected = gradients(policy, naive)
    for _, parameter in policy.trainable():
        parameter.grad = None
    loss = anchoring.pull_to_drawn(torch.tensor([3, 4, 5]))
    found = torch.cat([parameter.grad.flatten() for _, parameter in policy.trainable()])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-3)
    assert loss == pytest.approx(float(naive.detach()), rel=1e-4)


def test_reference_log_probs_do_not_depend_on_the_microbatch(made):
    policy, rollouts = made
    found = [
        reference_logprobs(Recipe(microbatch=size), policy, Memory.fresh(3), rollouts)
        for size in (256, 4)
    ]
    torch.testing.assert_close(found[0], found[1], atol=1e-5, rtol=1e-5)


def test_a_guide_is_measured_over_the_tokens(made):
    anchoring = anchoring_of(made, "sage", {"guide": "branch", "threshold": 0.1, "ratio": 0.3})
    q = ANCHORS["scaled_beta"]  # the same guide; its penalty over k3 is q
    plain = anchoring_of(made, "reverse_kl", {"estimator": "k3"})
    scaled = anchoring_of(made, "scaled_beta", {"threshold": 0.1, "ratio": 0.3})
    everything = list(range(6))
    mask = made[1].mask_BT
    k3, scaled_k3 = penalty_of(plain, everything)[mask], penalty_of(scaled, everything)[mask]
    used = k3 > 1e-4
    metrics = anchoring.metrics()
    assert q.acts_in_reward({}) is False
    assert 1.0 < metrics["train/guide"] <= 1.4 and 0 < metrics["train/guided"] <= 1
    ratio = (scaled_k3 / k3)[used]
    assert ratio.min() >= 1 - 1e-3 and ratio.max() <= 1.4 + 1e-3 and ratio.max() > 1.01
    assert plain.metrics() == {}
