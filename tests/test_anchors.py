"""What each anchor really does, where every mean can be summed: one state, and whole two-step sequences."""

import itertools

import pytest
import torch

from workbench.anchors import ANCHORS, AnchorTokens, guide_values, kl_value
from workbench.variants import WorkbenchError

LOGITS = torch.tensor([0.3, -0.7, 1.1, 0.0], dtype=torch.float64)
REFERENCE = torch.log_softmax(torch.tensor([1.0, 0.2, -0.5, 0.4], dtype=torch.float64), -1)
GUIDED = ("sage", "scaled_beta", "matched_beta")
Q = {"q_min": 0.05, "q_max": 5.0}  # bounds that do not bite


def tokens_of(logp, reference=REFERENCE, **changes):
    """A row of AnchorTokens whose tokens are all actions of one state, in order."""
    logp, reference = torch.atleast_2d(logp), torch.atleast_2d(reference)
    values = {
        "mask_BT": torch.ones_like(logp, dtype=torch.bool),
        "entropies_BT": torch.zeros_like(logp),
        "step": 1,
        "steps": 1000,
        "noise_2BT": torch.zeros(2, *logp.shape, dtype=logp.dtype),
    }
    return AnchorTokens(logp, reference, **values | changes)


def actions_of_a_state(logp, **changes):
    """The same with every action as a completion of its own, so that no statistic mixes them."""
    flat = {name: value.view(-1, 1) for name, value in changes.items() if name == "entropies_BT"}
    return tokens_of(logp.view(-1, 1), REFERENCE.view(-1, 1), **changes | flat)


def exact_of(logp):
    """The trainer's `exact`: each action stands at the same state."""
    kls = {"reverse": reverse_kl(logp), "forward": forward_kl(logp)}
    return lambda direction: kls[direction].expand(1, len(logp))


def reverse_kl(logp, reference=REFERENCE):
    return (logp.exp() * (logp - reference)).sum()


def forward_kl(logp, reference=REFERENCE):
    return (reference.exp() * (reference - logp)).sum()


def gradient_of(value):
    logits = LOGITS.clone().requires_grad_()
    value(logits.log_softmax(-1)).backward()
    return logits.grad


def expected_gradient(name, *, exact=False, tokens=tokens_of, changes=None, **arguments):
    """E over actions of d penalty(action) / d logits, the sampling itself not differentiated."""
    logits = LOGITS.clone().requires_grad_()
    logp = logits.log_softmax(-1)
    given = (changes or {}) | ({"exact": exact_of(logp)} if exact else {})
    penalty = ANCHORS[name](tokens(logp, **given), **arguments).reshape(-1)
    (logp.detach().exp() * penalty).sum().backward()
    return logits.grad


def reward_gradient(estimator):
    """E over actions of penalty(action) * d log pi(action): what taking it from the reward does."""
    logits = LOGITS.clone().requires_grad_()
    logp = logits.log_softmax(-1)
    tokens = tokens_of(logp, exact=exact_of(logp))
    penalty = ANCHORS["reverse_kl"](tokens, estimator=estimator, place="reward")
    assert not penalty.requires_grad
    (logp.detach().exp() * penalty[0] * logp).sum().backward()
    return logits.grad


# ------------------------------------------------------------------ reverse and forward KL, one state


def test_k1_as_a_loss_has_mean_gradient_zero():
    assert expected_gradient("reverse_kl", estimator="k1").abs().max() < 1e-12


def test_k2_as_a_loss_has_the_reverse_kl_gradient():
    torch.testing.assert_close(
        expected_gradient("reverse_kl", estimator="k2"), gradient_of(reverse_kl)
    )


def test_k3_as_a_loss_has_the_forward_kl_gradient():
    found = expected_gradient("reverse_kl", estimator="k3")
    torch.testing.assert_close(found, gradient_of(forward_kl))
    assert not torch.allclose(gradient_of(forward_kl), gradient_of(reverse_kl), atol=1e-2)


@pytest.mark.parametrize(
    ("name", "arguments", "direction"),
    [("reverse_kl", {"estimator": "exact"}, reverse_kl), ("forward_kl", {}, forward_kl)],
)
def test_exact_is_exact_in_value_and_gradient(name, arguments, direction):
    found = expected_gradient(name, exact=True, **arguments)
    torch.testing.assert_close(found, gradient_of(direction))
    logp = LOGITS.log_softmax(-1)
    value = ANCHORS[name](tokens_of(logp, exact=exact_of(logp)), **arguments)
    assert value.tolist() == [[direction(logp).item()] * 4]


def test_in_the_reward_k1_alone_follows_the_reverse_kl():
    reverse, forward = gradient_of(reverse_kl), gradient_of(forward_kl)
    torch.testing.assert_close(reward_gradient("k1"), reverse)
    torch.testing.assert_close(reward_gradient("k3"), reverse - forward)
    half_square = gradient_of(lambda logp: (logp.exp() * (logp - REFERENCE).square() / 2).sum())
    torch.testing.assert_close(reward_gradient("k2"), half_square - reverse)
    assert reward_gradient("exact").abs().max() < 1e-12


def test_cross_entropy_on_reference_samples_has_the_forward_kl_gradient():
    logits = LOGITS.clone().requires_grad_()
    penalty = ANCHORS["forward_kl"](tokens_of(logits.log_softmax(-1)), source="samples")
    (REFERENCE.exp() * penalty[0]).sum().backward()
    torch.testing.assert_close(logits.grad, gradient_of(forward_kl))


def test_exact_without_the_vocabulary_says_so():
    for name, arguments in (("reverse_kl", {"estimator": "exact"}), ("forward_kl", {})):
        with pytest.raises(WorkbenchError, match="needs the whole vocabulary"):
            ANCHORS[name](tokens_of(LOGITS.log_softmax(-1)), **arguments)


def test_the_shown_value_is_the_reverse_kl_without_bias():
    logp = LOGITS.log_softmax(-1)
    values = kl_value(logp, REFERENCE)
    assert (logp.exp() * values).sum() == pytest.approx(reverse_kl(logp).item(), abs=1e-12)


def test_k3_is_never_negative_and_k1_can_be():
    torch.manual_seed(0)
    tokens = tokens_of(-5 * torch.rand(4, 99), -5 * torch.rand(4, 99))
    assert (ANCHORS["reverse_kl"](tokens, estimator="k3") >= 0).all()
    assert (ANCHORS["sage"](tokens, guide="token") >= 0).all()
    assert (ANCHORS["scaled_beta"](tokens, guide="token") >= 0).all()
    assert (ANCHORS["reverse_kl"](tokens, estimator="k1") < 0).any()


def test_sign_and_direction_errors_of_published_code_are_not_ours():
    """Published slips: k1 with the wrong sign, k3 with policy and reference exchanged."""
    logp = LOGITS.log_softmax(-1)
    true = reverse_kl(logp).item()

    def mean(tokens, name):
        return (logp.exp() * ANCHORS["reverse_kl"](tokens, estimator=name)).sum().item()

    means = {name: mean(tokens_of(logp), name) for name in ("k1", "k2", "k3")}
    assert means["k1"] == pytest.approx(true, abs=1e-12)
    assert means["k3"] == pytest.approx(true, abs=1e-12)
    assert abs(means["k2"] - true) > 0.01  # k2's value is biased; only its gradient is right
    exchanged = tokens_of(REFERENCE, logp)
    assert mean(exchanged, "k1") == pytest.approx(-true, abs=1e-12)
    assert abs(mean(exchanged, "k3") - true) > 0.01


def test_none_adds_nothing_and_the_policy_at_its_reference_pays_nothing():
    logp = torch.tensor([[-1.0, -2.0]], requires_grad=True)
    ANCHORS["none"](tokens_of(logp, torch.tensor([[-3.0, -1.0]]))).sum().backward()
    assert torch.equal(logp.grad, torch.zeros(1, 2))
    for estimator in ("k1", "k2", "k3"):
        same = ANCHORS["reverse_kl"](tokens_of(logp, logp.detach()), estimator=estimator)
        assert torch.equal(same, torch.zeros(1, 2))


# ------------------------------------------------------------------ sage and its controls, one state


def test_released_sage_with_a_token_guide_pulls_to_the_tilted_anchor():
    """Z * gradient of KL(tilted || policy), tilted = q * reference / Z: sage.md 2.4."""
    found = expected_gradient("sage", guide="token", normalise="rank", **Q)
    q = guide_values(tokens_of(LOGITS.log_softmax(-1)), guide="token", normalise="rank", **Q)[0]
    assert len(set(q.tolist())) == 4  # q does depend on the token
    mass = (q * REFERENCE.exp()).sum()
    tilted = (q * REFERENCE.exp() / mass).log()
    expected = mass * gradient_of(lambda logp: forward_kl(logp, tilted))
    torch.testing.assert_close(found, expected)
    policy = LOGITS.softmax(-1)
    torch.testing.assert_close(found, mass * (policy - tilted.exp()))  # the same, written out
    plain = expected_gradient("reverse_kl", estimator="k3")
    assert not torch.allclose(found, plain, atol=1e-2)


def test_released_sage_has_the_value_that_its_mass_gives():
    """E[k3] against q * reference is KL(policy || tilted) + Z - 1 - log Z: sage.md 2.3."""
    logp = LOGITS.log_softmax(-1)
    given = {"guide": "token", "normalise": "rank"}
    q = guide_values(tokens_of(logp), **given)[0]
    mass = (q * REFERENCE.exp()).sum()
    tilted = (q * REFERENCE.exp() / mass).log()
    value = (logp.exp() * ANCHORS["sage"](tokens_of(logp), **given)[0]).sum()
    torch.testing.assert_close(value, reverse_kl(logp, tilted) + mass - 1 - mass.log())


def test_branch_is_the_plain_pull_times_q_and_so_are_its_controls():
    """One state, hence one entropy: q = 1 + 0.3 * (2 - 1.2) = 1.24."""
    changes = {"entropies_BT": torch.full((1, 4), 2.0, dtype=torch.float64)}
    plain = gradient_of(forward_kl)
    for name in GUIDED:
        torch.testing.assert_close(expected_gradient(name, changes=changes), 1.24 * plain)


def test_scaled_beta_differs_from_sage_by_one_less_q_times_the_score():
    logits = LOGITS.clone().requires_grad_()
    logp = logits.log_softmax(-1)
    tokens = tokens_of(logp, entropies_BT=torch.tensor([[0.0, 1.5, 2.0, 4.0]], dtype=torch.float64))
    difference = ANCHORS["sage"](tokens)[0] - ANCHORS["scaled_beta"](tokens)[0]
    q = guide_values(tokens)[0]
    for action in range(4):
        found = torch.autograd.grad(difference[action], logits, retain_graph=True)[0]
        score = torch.autograd.grad(logp[action], logits, retain_graph=True)[0]
        torch.testing.assert_close(found, (1 - q[action]) * score)


def test_noise_of_mean_one_leaves_the_mean_pull_alone():
    torch.manual_seed(0)
    noise = torch.randn(1, 2000, dtype=torch.float64) / 3  # small enough never to be clipped
    noise = torch.cat((noise, -noise), 1)
    uniform = torch.zeros_like(noise)
    logits = LOGITS.clone().requires_grad_()
    logp = logits.log_softmax(-1)
    size = noise.shape[1]
    total = 0.0
    for action in range(4):
        row = tokens_of(
            logp[action].expand(1, size),
            REFERENCE[action].expand(1, size),
            noise_2BT=torch.stack((noise, uniform)),
        )
        total = total + logp[action].detach().exp() * ANCHORS["sage"](row, guide="random").mean()
    total.backward()
    torch.testing.assert_close(logits.grad, gradient_of(forward_kl))


def test_matched_beta_takes_the_mean_of_the_whole_batch():
    logp = torch.tensor([[-1.0, -2.0]])
    reference = torch.tensor([[-1.5, -1.0]])
    whole = tokens_of(
        torch.zeros(2, 2),
        torch.zeros(2, 2),
        mask_BT=torch.tensor([[True, True], [True, False]]),
        entropies_BT=torch.tensor([[2.2, 1.0], [1.2, 9.0]]),  # q 1.3, 1 and 1; the last is masked
    )
    part = tokens_of(logp, reference, sampled=whole)
    k3 = ANCHORS["reverse_kl"](part, estimator="k3")
    torch.testing.assert_close(ANCHORS["matched_beta"](part), 1.1 * k3)


@pytest.mark.parametrize("name", GUIDED)
@pytest.mark.parametrize("guide", ["branch", "token", "random"])
def test_q_of_one_is_the_plain_row_bit_for_bit(name, guide):
    torch.manual_seed(3)
    logp, reference = -5 * torch.rand(8, 40), -5 * torch.rand(8, 40)
    arguments = {"guide": guide, "q_min": 1.0, "q_max": 1.0}
    gradients = []
    for row, given in ((name, arguments), ("reverse_kl", {"estimator": "k3"})):
        leaf = logp.clone().requires_grad_()
        tokens = tokens_of(leaf, reference, noise_2BT=torch.rand(2, 8, 40))
        penalty = ANCHORS[row](tokens, **given)
        penalty.sum().backward()
        gradients.append((penalty.detach(), leaf.grad))
    assert torch.equal(gradients[0][0], gradients[1][0])
    assert torch.equal(gradients[0][1], gradients[1][1])


@pytest.mark.parametrize("name", GUIDED)
def test_low_entropy_leaves_branch_at_the_plain_row(name):
    tokens = tokens_of(-torch.rand(2, 5), -torch.rand(2, 5), entropies_BT=torch.ones(2, 5))
    plain = ANCHORS["reverse_kl"](tokens, estimator="k3")
    assert torch.equal(ANCHORS[name](tokens), plain)


@pytest.mark.parametrize("guide", ["branch", "token", "random"])
def test_no_gradient_reaches_q(guide):
    """The derivative by a token's log-prob is that of q held constant."""
    torch.manual_seed(4)
    leaf = (-5 * torch.rand(3, 20, dtype=torch.float64)).requires_grad_()
    reference = -5 * torch.rand(3, 20, dtype=torch.float64)
    tokens = tokens_of(
        leaf,
        reference,
        entropies_BT=leaf * -2,  # as if someone forgot to detach it
        noise_2BT=torch.stack((torch.randn(3, 20), torch.rand(3, 20) / 30)),
    )
    q = guide_values(tokens, guide=guide)
    assert not q.requires_grad and (q != 1).any()
    ratio = (reference - leaf).exp().detach()
    for name, expected in (("sage", 1 - q * ratio), ("scaled_beta", q * (1 - ratio))):
        (found,) = torch.autograd.grad(ANCHORS[name](tokens, guide=guide).sum(), leaf)
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("name", ["none", "reverse_kl", *GUIDED])
def test_masked_tokens_pay_nothing(name):
    mask = torch.tensor([[True, True, False]])
    logp = torch.tensor([[-1.0, -2.0, 0.0]])
    tokens = tokens_of(
        logp, logp * 2, mask_BT=mask, entropies_BT=torch.full((1, 3), 3.0),
        noise_2BT=torch.tensor([[[1.0, 1.0, 1.0]], [[0.0, 0.0, 0.0]]]),
    )  # fmt: skip
    for guide in ("branch", "token", "random") if name in GUIDED else (None,):
        given = {"guide": guide} if guide else {}
        assert ANCHORS[name](tokens, **given)[0, 2] == 0
    assert guide_values(tokens)[0].tolist() == pytest.approx([1.4, 1.4, 1.0])


# ------------------------------------------------------------------ whole completions of two tokens

FIRST = torch.tensor([0.2, -0.4, 0.7], dtype=torch.float64)
SECOND = torch.tensor([[0.9, 0.1, -0.3], [0.0, -1.0, 0.5], [0.4, 0.4, -0.9]], dtype=torch.float64)
REF_FIRST = torch.tensor([-0.3, 0.5, 0.1], dtype=torch.float64).log_softmax(-1)
REF_SECOND = torch.tensor(
    [[0.0, 0.3, 0.3], [1.0, -0.2, 0.0], [-0.5, 0.0, 0.8]], dtype=torch.float64
).log_softmax(-1)
# Token 2 as the first token ends the completion, so lengths are 1 and 2.
SEQUENCES = [(0, b) for b in range(3)] + [(1, b) for b in range(3)] + [(2,)]


def two_steps(parameters=None):
    """(parameters, log-probs (7, 2), reference (7, 2), mask (7, 2)) of every completion."""
    first, second = parameters or (
        FIRST.clone().requires_grad_(),
        SECOND.clone().requires_grad_(),
    )
    logp, reference, mask = [], [], []
    for sequence in SEQUENCES:
        long = len(sequence) == 2
        rows = ((first.log_softmax(-1), second.log_softmax(-1)), (REF_FIRST, REF_SECOND))
        for table, kept in zip(rows, (logp, reference), strict=True):
            tail = table[1][sequence] if long else table[0][0] * 0
            kept.append(torch.stack((table[0][sequence[0]], tail)))
        mask.append([True, long])
    return (first, second), torch.stack(logp), torch.stack(reference), torch.tensor(mask)


def reward_side_gradient(penalty_of, parameters=None):
    """The trainer's rule in expectation over all groups of two completions.

    Each token's log-prob times (its and later penalties, less those of the other completion from there on).
    """
    parameters, logp, reference, mask = two_steps(parameters)
    tokens = tokens_of(logp.detach(), reference, mask_BT=mask)
    penalty = penalty_of(tokens)
    assert not penalty.requires_grad
    to_go = penalty.flip(1).cumsum(1).flip(1)
    chance = logp.sum(1).detach().exp()
    loss = 0.0
    for mine, other in itertools.product(range(len(SEQUENCES)), repeat=2):
        centred = (to_go[mine] - to_go[other]) * mask[mine]
        loss = loss + chance[mine] * chance[other] * (centred * logp[mine]).sum()
    return torch.autograd.grad(loss, parameters)


def sequence_gradient(value):
    """The gradient of value(log-probs, reference, mask) of the whole completions, sampling included."""
    parameters, logp, reference, mask = two_steps()
    return torch.autograd.grad(value(logp, reference, mask), parameters)


def sequence_kl(logp, reference, mask):
    return (logp.sum(1).exp() * (logp - reference).sum(1)).sum()


def close(found, expected):
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_the_enumerated_completions_are_all_there_are():
    _, logp, reference, _ = two_steps()
    assert logp.sum(1).exp().sum().item() == pytest.approx(1)
    assert reference.sum(1).exp().sum().item() == pytest.approx(1)


def test_k1_in_the_reward_follows_the_reverse_kl_of_the_whole_completion():
    row = ANCHORS["reverse_kl"]
    found = reward_side_gradient(lambda tokens: row(tokens, estimator="k1", place="reward"))
    close(found, sequence_gradient(sequence_kl))
    for estimator in ("k2", "k3"):
        other = reward_side_gradient(
            lambda tokens, name=estimator: row(tokens, estimator=name, place="reward")
        )
        assert not torch.allclose(other[0], found[0], atol=1e-2)


def state_kls(parameters):
    """Reverse KL at each position of each completion, (7, 2)."""
    first, second = (table.log_softmax(-1) for table in parameters)
    at_first = (first.exp() * (first - REF_FIRST)).sum()
    at_second = (second.exp() * (second - REF_SECOND)).sum(1)
    tails = [at_second[s[0]] if len(s) == 2 else at_first * 0 for s in SEQUENCES]
    return torch.stack([torch.stack((at_first, tail)) for tail in tails])


def test_exact_in_the_loss_and_in_the_reward_are_the_two_halves_of_that_gradient():
    parameters, logp, _, mask = two_steps()
    kls = state_kls(parameters)
    in_loss = torch.autograd.grad(
        (logp.sum(1).detach().exp()[:, None] * kls * mask).sum(), parameters, retain_graph=True
    )

    def through_states(tokens):
        given = tokens_of(
            tokens.logprobs_BT, tokens.reference_BT, exact=lambda _: kls.detach() * mask
        )
        return ANCHORS["reverse_kl"](given, estimator="exact", place="reward")

    in_reward = reward_side_gradient(through_states)
    whole = sequence_gradient(sequence_kl)
    close([one + other for one, other in zip(in_loss, in_reward, strict=True)], whole)
    assert in_reward[0].abs().max() > 1e-2  # the half that a loss leaves out is not small
    assert in_reward[1].abs().max() < 1e-12


def test_reference_samples_follow_the_forward_kl_of_the_whole_completion():
    parameters, logp, reference, mask = two_steps()
    penalty = ANCHORS["forward_kl"](tokens_of(logp, reference, mask_BT=mask), source="samples")
    chance = reference.sum(1).exp()
    found = torch.autograd.grad((chance * (penalty * mask).sum(1)).sum(), parameters)
    close(
        found,
        sequence_gradient(
            lambda logp, reference, mask: (reference.sum(1).exp() * (reference - logp).sum(1)).sum()
        ),
    )


def entropies_of_states():
    """Fixed stand-ins for entropies: 2.0 at the first state, 1.5, 3.0 at the second ones."""
    rows = [[2.0, (1.5, 3.0)[s[0]] if len(s) == 2 else 0.0] for s in SEQUENCES]
    return torch.tensor(rows, dtype=torch.float64)


def test_faithful_sage_follows_the_sequence_kl_less_the_mean_of_log_q():
    def faithful(tokens):
        given = tokens_of(
            tokens.logprobs_BT,
            tokens.reference_BT,
            mask_BT=tokens.mask_BT,
            entropies_BT=entropies_of_states(),
        )
        return ANCHORS["sage"](given, form="faithful")

    found = reward_side_gradient(faithful)
    log_q = torch.tensor([1.24, 1.09, 1.4], dtype=torch.float64).log()
    bonus = torch.stack(
        [(log_q[0] + log_q[1 + s[0]]) / 2 if len(s) == 2 else log_q[0] for s in SEQUENCES]
    )

    def shaped(logp, reference, mask):
        return sequence_kl(logp, reference, mask) - (logp.sum(1).exp() * bonus).sum()

    close(found, sequence_gradient(shaped))
    assert not torch.allclose(found[0], sequence_gradient(sequence_kl)[0], atol=1e-2)


def test_faithful_sage_pays_the_same_bonus_whatever_the_length():
    lengths = (1, 4, 9)
    mask = torch.tensor([[place < length for place in range(9)] for length in lengths])
    tokens = tokens_of(
        torch.zeros(3, 9), torch.zeros(3, 9), mask_BT=mask, entropies_BT=torch.full((3, 9), 2.0)
    )
    penalty = ANCHORS["sage"](tokens, form="faithful")
    bonus = torch.tensor(1.24).log()
    torch.testing.assert_close(penalty.sum(1), -bonus.expand(3))
    for row, length in enumerate(lengths):
        assert penalty[row].nonzero().flatten().tolist() == [length - 1]


# ------------------------------------------------------------------ what the trainer asks a row


def test_rows_say_where_their_penalty_acts():
    in_reward = {
        (name, value): ANCHORS[name].acts_in_reward({argument: value})
        for name, argument, value in (
            ("reverse_kl", "place", "loss"),
            ("reverse_kl", "place", "reward"),
            ("sage", "form", "released"),
            ("sage", "form", "faithful"),
        )
    }
    assert [key for key, value in in_reward.items() if value] == [
        ("reverse_kl", "reward"),
        ("sage", "faithful"),
    ]
    assert not any(row.acts_in_reward({}) or row.uses_samples({}) for row in ANCHORS.values())
    assert ANCHORS["forward_kl"].uses_samples({"source": "samples"})


@pytest.mark.parametrize("name", list(ANCHORS))
def test_every_choice_of_every_row_gives_one_finite_penalty_per_token(name):
    row = ANCHORS[name]
    torch.manual_seed(6)
    logp = -torch.rand(2, 3)
    tokens = tokens_of(
        logp, -torch.rand(2, 3), exact=lambda direction: torch.rand(2, 3),
        entropies_BT=torch.rand(2, 3) * 3, noise_2BT=torch.rand(2, 2, 3),
    )  # fmt: skip
    choices = [[(p.name, value) for value in p.choices] for p in row.params if p.choices]
    for combination in itertools.product(*choices):
        arguments = row.defaults | dict(combination)
        row.check(name, arguments)
        penalty = row(tokens, **arguments)
        assert penalty.shape == (2, 3) and torch.isfinite(penalty).all()
