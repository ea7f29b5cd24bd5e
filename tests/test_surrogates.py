"""Token losses by hand, their gradients, and the weights of each aggregation."""

import math

import pytest
import torch

from workbench.surrogates import AGGREGATIONS, SURROGATES

OLD = torch.tensor([[-1.0, -2.0]])
BOTH = torch.tensor([[True, True]])


def gradient(name, logprobs, advantage, **params):
    """Loss and gradient of the two tokens of one completion, whose old log-probabilities are OLD."""
    logprobs = torch.tensor([logprobs], requires_grad=True)
    advantages = torch.tensor([advantage if isinstance(advantage, list) else [advantage]])
    loss = SURROGATES[name](logprobs, OLD, advantages, BOTH, **params)
    assert loss.shape == (1, 2)
    loss.sum().backward()
    return loss.detach()[0].tolist(), logprobs.grad[0].tolist()


def moved(first, second=0.0):
    """The log-probabilities whose ratios to OLD have these logs."""
    return [-1.0 + first, -2.0 + second]


def test_reinforce_is_minus_advantage_times_logprob():
    loss, slope = gradient("reinforce", [-1.5, -2.0], 2.0)
    assert loss == [3.0, 4.0]
    assert slope == [-2.0, -2.0]


@pytest.mark.parametrize(
    ("log_ratio", "advantage", "loss", "slope"),
    [
        (0.5, 1.0, -1.2, 0.0),  # ratio 1.649 above 1 + 0.2: clipped, no pull
        (-0.5, 1.0, -0.6065307, -0.6065307),  # falling while good: pulled back up
        (-0.5, -1.0, 0.8, 0.0),  # ratio 0.607 below 1 - 0.2: clipped
        (0.5, -1.0, 1.6487213, 1.6487213),  # rising while bad: pulled back down
    ],
)
def test_ppo_clip_stops_only_moves_that_have_gone_far_enough(log_ratio, advantage, loss, slope):
    found, slopes = gradient("ppo_clip", moved(log_ratio), advantage)
    assert found[0] == pytest.approx(loss, abs=1e-6)
    assert slopes[0] == pytest.approx(slope, abs=1e-6)


def test_ppo_clip_takes_two_clip_ranges():
    assert gradient("ppo_clip", moved(0.5), 1.0, clip_high=0.7)[1][0] == pytest.approx(-1.6487213)
    assert gradient("ppo_clip", moved(0.5), 1.0, clip_high=0.1)[0][0] == pytest.approx(-1.1)


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "slope"),
    [
        (1.25, 2.0, -2.5, -2.5),  # ppo_clip's default would have stopped it at 1.2
        (1.30, 2.0, -2.56, 0.0),  # above 1 + 0.28
        (0.85, -2.0, 1.7, 1.7),
        (0.75, -2.0, 1.6, 0.0),  # below 1 - 0.2
        (1.30, -2.0, 2.6, 2.6),
        (0.75, 2.0, -1.5, -1.5),
    ],
)
def test_dapo_clips_higher_above_than_below(ratio, advantage, loss, slope):
    found, slopes = gradient("dapo", moved(math.log(ratio)), advantage)
    assert found[0] == pytest.approx(loss, abs=1e-5)
    assert slopes[0] == pytest.approx(slope, abs=1e-5)


@pytest.mark.parametrize(
    ("first", "second", "advantage", "loss", "slope"),
    [
        # ratios 1.21 and 1: their geometric mean is 1.1, within 0.15
        (1.21, 1.0, 2.0, -2.2, -2.2),
        (1.21, 1.0, -2.0, 2.2, 2.2),
        (1.44, 1.0, 2.0, -2.3, 0.0),  # 1.2, above: both tokens are silent, the unmoved one too
        (1.44, 1.0, -2.0, 2.4, 2.4),
        (0.64, 1.0, -2.0, 1.7, 0.0),  # 0.8, below
        (0.64, 1.0, 2.0, -1.6, -1.6),
        (2.0, 0.5, 2.0, -2.0, -2.0),  # two moves that cancel: ratio 1, though each is far out
    ],
)
def test_gspo_has_one_ratio_and_one_clip_for_a_completion(first, second, advantage, loss, slope):
    logprobs = moved(math.log(first), math.log(second))
    losses, slopes = gradient("gspo", logprobs, advantage, clip_low=0.15, clip_high=0.15)
    assert losses == pytest.approx([loss, loss], abs=1e-5)
    assert slopes == pytest.approx([slope, slope], abs=1e-5)


def test_gspo_with_sequence_mean_is_the_papers_loss():
    """Eq. 5, written out: the mean over completions of -min(s A, clip(s) A), s from the masked tokens."""
    logprobs, old, advantages, mask = batch()
    total = torch.zeros(())
    for row in range(3):
        own = mask[row]
        ratio = ((logprobs[row] - old[row])[own].sum() / own.sum()).exp()
        clipped = ratio.clamp(1 - 0.1, 1 + 0.1)
        advantage = advantages[row, 0]
        total = total - torch.min(ratio * advantage, clipped * advantage) / 3
    (wanted,) = torch.autograd.grad(total, logprobs)

    loss = SURROGATES["gspo"](logprobs, old, advantages, mask, clip_low=0.1, clip_high=0.1)
    found = (loss * AGGREGATIONS["sequence_mean"](mask.float(), 4)).sum()
    torch.testing.assert_close(found, total)
    torch.testing.assert_close(torch.autograd.grad(found, logprobs)[0], wanted)


def test_gspo_lets_each_token_keep_its_own_advantage():
    losses, slopes = gradient("gspo", moved(math.log(1.21)), [3.0, -1.0], clip_high=0.15)
    assert losses == pytest.approx([-3.3, 1.1], abs=1e-5)
    assert slopes == pytest.approx([-3.3, 1.1], abs=1e-5)


@pytest.mark.parametrize(
    ("ratio", "advantage", "weight"),
    [(2.0, 1.5, 2.0), (4.0, 1.5, 3.0), (4.0, -1.5, 3.0), (0.1, 1.5, 0.1), (0.1, -1.5, 0.1)],
)
def test_cispo_caps_the_weight_and_silences_no_token(ratio, advantage, weight):
    logprobs = moved(math.log(ratio))
    losses, slopes = gradient("cispo", logprobs, advantage, clip_high=2.0)
    assert slopes[0] == pytest.approx(-weight * advantage, rel=1e-5)
    assert losses[0] == pytest.approx(-weight * advantage * logprobs[0], rel=1e-5)
    assert slopes[1] == pytest.approx(-advantage)  # the token that stayed


def test_cispo_caps_at_five_unless_told():
    assert gradient("cispo", moved(math.log(50.0)), 1.0)[1][0] == pytest.approx(-5.0)


@pytest.mark.parametrize(
    ("ratio", "advantage", "tau"),
    [(1.5, 2.0, 1.0), (0.5, 2.0, 1.0), (1.5, -2.0, 1.05), (0.5, -2.0, 1.05)],
)
def test_sapo_fades_with_the_distance_at_the_temperature_of_the_sign(ratio, advantage, tau):
    losses, slopes = gradient("sapo", moved(math.log(ratio)), advantage)
    gate = 4 / tau / (1 + math.exp(-tau * (ratio - 1)))
    fading = 1 / math.cosh(tau * (ratio - 1) / 2) ** 2
    assert losses[0] == pytest.approx(-gate * advantage, rel=1e-5)
    assert slopes[0] == pytest.approx(-fading * ratio * advantage, rel=1e-5)


def test_sapo_by_hand():
    """At ratio 1.5, tau 2: sigmoid(1) = 0.7310586 and 4 s (1 - s) = 0.7864477."""
    losses, slopes = gradient("sapo", moved(math.log(1.5)), 1.0, tau_pos=2.0)
    assert losses[0] == pytest.approx(-1.4621172, abs=1e-5)
    assert slopes[0] == pytest.approx(-1.5 * 0.7864477, abs=1e-5)


@pytest.mark.parametrize(
    ("params", "weights"),
    [
        ({}, [2.0, 0.9]),  # ratios 3 and 0.9, cap 2
        ({"cap": 10.0}, [3.0, 0.9]),
        ({"level": "sequence"}, [2.0, 2.0]),  # product 2.7
        ({"level": "sequence", "cap": 10.0}, [2.7, 2.7]),
    ],
)
@pytest.mark.parametrize("advantage", [1.5, -1.5])
def test_truncated_is_weighs_by_the_ratio_up_to_the_cap(params, weights, advantage):
    logprobs = moved(math.log(3.0), math.log(0.9))
    losses, slopes = gradient("truncated_is", logprobs, advantage, **params)
    assert slopes == pytest.approx([-w * advantage for w in weights], rel=1e-5)
    wanted = [-w * advantage * p for w, p in zip(weights, logprobs, strict=True)]
    assert losses == pytest.approx(wanted, rel=1e-5)


def test_truncated_is_by_sequence_without_a_cap_is_unbiased():
    """Over all words of a two-token language, E_old[weight * slope] is the new policy's gradient."""
    old = torch.tensor([[0.3, -0.2], [0.1, 0.4]]).log_softmax(-1)  # per position
    logits = torch.tensor([[0.9, -0.5], [-0.6, 0.2]], requires_grad=True)
    new = logits.log_softmax(-1)
    rewards = torch.tensor([[1.0, -2.0], [0.5, 3.0]])
    value, loss = torch.zeros(()), torch.zeros(())
    for a in range(2):
        for b in range(2):
            logprobs, before = (torch.stack((p[0, a], p[1, b]))[None] for p in (new, old))
            chance = before.sum().exp()
            value = value + logprobs.sum().exp() * rewards[a, b]
            row = SURROGATES["truncated_is"](
                logprobs, before, rewards[a, b].view(1, 1), BOTH, cap=100.0, level="sequence"
            )
            loss = loss + chance * row.sum()
    (wanted,) = torch.autograd.grad(-value, logits, retain_graph=True)
    torch.testing.assert_close(torch.autograd.grad(loss, logits)[0], wanted)


MASK = torch.tensor([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0], [1.0, 1.0, 1.0]])
EVERY_ROW = [
    *((name, {}) for name in SURROGATES),
    ("truncated_is", {"level": "sequence"}),
]
every_row = pytest.mark.parametrize(("name", "params"), EVERY_ROW)


def batch(spread=0.2):
    """Three completions; masked positions hold 0, as in training."""
    generator = torch.Generator().manual_seed(0)
    mask = MASK.bool()
    old = (-torch.rand(3, 3, generator=generator) - 1) * mask
    shift = spread * torch.randn(3, 3, generator=generator)
    logprobs = ((old + shift) * mask).requires_grad_()
    return logprobs, old, torch.tensor([[1.0], [-2.0], [0.5]]), mask


def weighted(name, params, tensors, weights):
    """The loss that training takes: aggregated, over the masked tokens."""
    mask = tensors[3]
    return (SURROGATES[name](*tensors, **params) * weights)[mask].sum()


@every_row
@pytest.mark.parametrize("aggregation", list(AGGREGATIONS))
def test_at_ratio_one_every_row_has_the_gradient_of_reinforce(name, params, aggregation):
    logprobs, old, advantages, mask = batch(spread=0.0)
    weights = AGGREGATIONS[aggregation](mask.float(), 4)
    for given in (advantages, torch.arange(9.0).view(3, 3) - 4):
        loss = weighted(name, params, (logprobs, old, given, mask), weights)
        (slope,) = torch.autograd.grad(loss, logprobs)
        torch.testing.assert_close(slope, -given * weights)


@every_row
def test_a_masked_position_has_no_gradient_and_no_influence(name, params):
    """Even where a loss is summed without the mask, or a masked position holds rubbish."""
    tensors = batch()
    loss = SURROGATES[name](*tensors, **params)
    assert loss.shape == (3, 3)
    (slope,) = torch.autograd.grad(loss.sum(), tensors[0])
    assert slope.any() and not slope[~tensors[3]].any()

    rubbish = torch.full((3, 3), float("nan")).where(~tensors[3], tensors[0]).detach()
    other = SURROGATES[name](rubbish.requires_grad_(), *tensors[1:], **params)
    assert torch.equal(other[tensors[3]], loss[tensors[3]])
    assert torch.equal(torch.autograd.grad(other.sum(), rubbish)[0], slope)


@every_row
def test_an_advantage_per_completion_is_the_same_one_at_each_token(name, params):
    logprobs, old, advantages, mask = batch()
    found = [
        SURROGATES[name](logprobs, old, given, mask, **params)
        for given in (advantages, advantages.expand(3, 3))
    ]
    assert torch.equal(*found)
    slopes = [torch.autograd.grad(loss.sum(), logprobs)[0] for loss in found]
    assert torch.equal(*slopes)


@every_row
def test_an_advantage_per_token_acts_on_its_own_token(name, params):
    logprobs, old, _, mask = batch()
    advantages = torch.zeros(3, 3)
    advantages[2, 1] = -3.0
    loss = SURROGATES[name](logprobs, old, advantages, mask, **params)
    (slope,) = torch.autograd.grad(loss.sum(), logprobs)
    others = torch.ones(3, 3, dtype=torch.bool)
    others[2, 1] = False
    assert not loss[others].any() and not slope[others].any()
    same = SURROGATES[name](logprobs, old, torch.full((3, 1), -3.0), mask, **params)
    assert loss[2, 1] == same[2, 1] != 0


@every_row
def test_microbatches_sum_to_the_batch(name, params):
    tensors = batch()
    weights = AGGREGATIONS["token_mean"](MASK, 4)
    whole = weighted(name, params, tensors, weights)
    (slope,) = torch.autograd.grad(whole, tensors[0])
    parts = []
    for rows, width in (([1], 1), ([2, 0], 3)):  # cut to the part's own width, as the trainer does
        cut = tuple(tensor[rows, :width] for tensor in tensors)
        parts.append(weighted(name, params, cut, weights[rows, :width]))
    torch.testing.assert_close(sum(parts), whole)
    torch.testing.assert_close(torch.autograd.grad(sum(parts), tensors[0])[0], slope)


@every_row
@pytest.mark.parametrize("log_ratio", [80.0, -80.0, 200.0, -200.0])
@pytest.mark.parametrize("advantage", [1.0, -1.0, 0.0])
def test_a_huge_or_tiny_ratio_leaves_loss_and_gradient_finite(name, params, log_ratio, advantage):
    """e^80 is near the end of float32, e^200 beyond it."""
    high, low = -10.0, -10.0 - abs(log_ratio)
    new, before = (high, low) if log_ratio > 0 else (low, high)
    mask = torch.tensor([[True, True, False]])
    logprobs = torch.full((1, 3), new).masked_fill(~mask, 0.0).requires_grad_()
    old = torch.full((1, 3), before).masked_fill(~mask, 0.0)
    loss = SURROGATES[name](logprobs, old, torch.tensor([[advantage]]), mask, **params)
    (slope,) = torch.autograd.grad(loss.sum(), logprobs)
    assert loss.isfinite().all() and slope.isfinite().all()
    if advantage == 0:
        assert not slope.any()


@pytest.mark.parametrize("name", ["ppo_clip", "dapo", "gspo"])
@pytest.mark.parametrize(("log_ratio", "advantage"), [(200.0, 1.0), (0.6, 1.0), (-0.6, -1.0)])
def test_a_clipped_token_has_a_gradient_of_exactly_zero(name, log_ratio, advantage):
    assert gradient(name, moved(log_ratio, log_ratio), advantage)[1] == [0.0, 0.0]


def test_the_table_shows_a_formula_a_source_and_help_for_every_parameter():
    for name, row in SURROGATES.items():
        assert row.formula and row.source and row.doc.endswith("."), name
        row.check(name, row.defaults)
        assert all(param.doc.endswith(".") for param in row.params), name


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("sum", [1 / 3, 1 / 3, 1 / 3]),
        ("sequence_mean", [1 / 6, 1 / 3, 1 / 9]),  # 1 / (3 completions * own length)
        ("token_mean", [1 / 6, 1 / 6, 1 / 6]),  # six tokens in all
        ("fixed_length", [1 / 12, 1 / 12, 1 / 12]),  # 3 completions * 4
    ],
)
def test_aggregation_weights_by_hand(name, rows):
    weights_BT = AGGREGATIONS[name](MASK, 4)
    torch.testing.assert_close(weights_BT, MASK * torch.tensor(rows)[:, None])


def test_an_empty_completion_gets_no_weight_and_no_nan():
    for row in AGGREGATIONS.values():
        assert torch.equal(row(torch.zeros(2, 3), 3), torch.zeros(2, 3))
    for row in SURROGATES.values():
        nothing = torch.zeros(2, 3)
        assert row(nothing, nothing, torch.ones(2, 1), nothing.bool()).isfinite().all()
