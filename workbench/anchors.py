"""Anchors: the penalty that ties the policy to the reference (the model that training started from).

Signature: ``f(tokens: AnchorTokens, **params) -> penalty_BT``. The penalty acts in one of three ways, which
the row's `in_reward` and `samples` tell the trainer:

- in the *loss* (most rows): beta * penalty is added to the policy loss, with the same weight per token.
  Gradients flow through `tokens.logprobs_BT` and `tokens.exact` only.
- through the *reward*: the penalty has no gradient. From each token's advantage the trainer takes beta times
  the penalties of that token and all later ones, less the mean of the group's other completions there.
- on *samples*: as in the loss, but on completions drawn from the reference.

With d = log reference - log policy of the sampled token, m the reference and pi the policy at one state, the
mean gradients on the policy's own samples are (each summed exactly in tests/test_anchors.py):

    estimator     k1 = -d         k2 = d^2 / 2     k3 = e^d - d - 1        exact
    in the loss   zero            of KL(pi || m)   of KL(m || pi)          of KL(pi || m)
    in the reward of KL(pi || m)  of neither       of KL(pi || m)-KL(m || pi)   zero

That table is for one state. Over a whole completion a choice also decides which states come next. Only k1 in
the reward follows the reverse KL of the whole completion: every row in the loss leaves out the effect of a
token on the states after it, and `exact` in the reward has that effect and nothing else.

"Whole completion" holds for the aggregations `sum` and `fixed_length`; the others weigh completions by their
length. All of this is in the mean over the policy's own samples at temperature 1, without a filter.

`kl_value` is what is shown to the user, whatever is optimised: an estimate of KL(policy || reference) per
token that is unbiased on the policy's own samples.

Tensors are used through their methods only, so that the table can be read without loading torch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from workbench import guides
from workbench.guides import GUIDE_PARAMS
from workbench.variants import Param, Variant, WorkbenchError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class AnchorTokens:
    """What an anchor may look at. Log-probs are natural and 0 where masked."""

    logprobs_BT: Tensor  # of the policy, with gradient where the penalty enters the loss
    reference_BT: Tensor
    mask_BT: Tensor  # bool
    entropies_BT: Tensor  # nats: the policy's own next-token entropy, without gradient
    step: int  # from 1
    steps: int  # of the whole run
    noise_2BT: Tensor  # standard normal [0] and uniform [1] draws, fixed by seed and step
    sampled: AnchorTokens | None = None  # the whole batch as recorded while sampling, no gradient
    exact: Callable[[str], Tensor] | None = (
        None  # "reverse" or "forward" -> KL of each state, (B, T)
    )


@dataclass(frozen=True)
class Anchor(Variant):
    """A row of ANCHORS: a Variant that also says where its penalty acts."""

    in_reward: tuple[str, str] | None = None  # through the reward when this argument has this value
    samples: tuple[str, str] | None = None  # on the reference's completions when so

    def acts_in_reward(self, arguments: dict[str, Any]) -> bool:
        """Whether the penalty is taken from the reward instead of joining the loss."""
        return self._has(self.in_reward, arguments)

    def uses_samples(self, arguments: dict[str, Any]) -> bool:
        """Whether the penalty is of completions drawn from the reference."""
        return self._has(self.samples, arguments)

    def _has(self, pair: tuple[str, str] | None, arguments: dict[str, Any]) -> bool:
        return pair is not None and (self.defaults | arguments)[pair[0]] == pair[1]


def none(tokens: AnchorTokens) -> Tensor:
    """No anchor: nothing but the reward restrains the policy."""
    return tokens.logprobs_BT * 0.0


def reverse_kl(tokens: AnchorTokens, *, estimator: str = "k2", place: str = "loss") -> Tensor:
    """KL from the policy to the reference, from each sampled token or exactly over the vocabulary.

    As *values* k1, k3 and exact are unbiased for the KL, k2 is not. As gradients they differ, and by place:
    see the table at the top of this module.
    """
    if estimator == "exact":
        penalty_BT = _exact(tokens, "reverse")
    elif estimator == "k1":
        penalty_BT = kl_value(tokens.logprobs_BT, tokens.reference_BT)
    elif estimator == "k2":
        penalty_BT = kl_value(tokens.logprobs_BT, tokens.reference_BT).square() / 2
    else:
        penalty_BT = _k3(tokens.logprobs_BT, tokens.reference_BT)
    return penalty_BT.detach() if place == "reward" else penalty_BT


def forward_kl(tokens: AnchorTokens, *, source: str = "exact") -> Tensor:
    """KL from the reference to the policy: the policy must keep all that the reference does.

    `exact` sums the vocabulary at the states that the policy itself visits. `samples` is the cross-entropy
    of completions drawn from the reference: its gradient is that of the forward KL of whole completions, at
    the states that the reference visits.
    """
    return -tokens.logprobs_BT if source == "samples" else _exact(tokens, "forward")


def sage(tokens: AnchorTokens, *, form: str = "released", **guide: Any) -> Tensor:
    """KL to the reference times a guide q, which at each token raises or lowers what the anchor favours.

    `released` is what the authors' code does: k3 in the loss, against the unnormalised q * reference. Its
    mean gradient at a state is Z times that of the *forward* KL to q * reference / Z, with Z the sum of
    q * reference; with a guide that does not look at the token drawn (`branch`) this is q times the plain
    pull of k3.

    `faithful` is the objective as the abstract states it, derived here: the reward gains beta * log q and
    loses beta * the reverse KL (k1) to the plain reference. A sum of log q would pay for length, so log q is
    averaged over the completion's tokens; only this bonus is normalised by the length, the KL stays a sum.
    The bonus depends on the whole completion and is put on its last token, so that every token is credited
    with it.
    """
    q_BT = guide_values(tokens, **guide)
    if form == "released":
        return _k3(tokens.logprobs_BT, tokens.reference_BT + q_BT.log())
    length_B1 = tokens.mask_BT.sum(-1, keepdim=True)
    bonus_B1 = q_BT.log().sum(-1, keepdim=True) / length_B1.clamp_min(1)  # log q is 0 where masked
    last_BT = tokens.mask_BT & (tokens.mask_BT.cumsum(-1) == length_B1)
    return kl_value(tokens.logprobs_BT, tokens.reference_BT).detach() - bonus_B1 * last_BT


def scaled_beta(tokens: AnchorTokens, **guide: Any) -> Tensor:
    """Control for sage: the plain k3, with beta multiplied by q at each token.

    With guide `branch` its gradient differs from sage's by (1 - q) grad log pi, zero in the mean.
    """
    return guide_values(tokens, **guide) * _k3(tokens.logprobs_BT, tokens.reference_BT)


def matched_beta(tokens: AnchorTokens, **guide: Any) -> Tensor:
    """Control for sage: the plain k3, with beta multiplied everywhere by the batch's mean of q.

    The mean is over the tokens of the whole batch, with q as it was while sampling.
    """
    whole = tokens if tokens.sampled is None else tokens.sampled
    mean = guide_values(whole, **guide)[whole.mask_BT].mean()
    return mean * _k3(tokens.logprobs_BT, tokens.reference_BT)


def guide_values(
    tokens: AnchorTokens,
    *,
    guide: str = "branch",
    threshold: float = 1.2,
    ratio: float = 0.3,
    normalise: str = "minmax",
    q_min: float = 0.6,
    q_max: float = 1.4,
) -> Tensor:
    """q of every token, (B, T): without gradient, in [q_min, q_max], 1 where masked."""
    mask_BT, bounds = tokens.mask_BT, {"low": q_min, "high": q_max}
    if guide == "branch":
        return guides.branch(
            tokens.entropies_BT, mask_BT, threshold=threshold, ratio=ratio, **bounds
        )
    normal_BT, uniform_BT = tokens.noise_2BT
    when = (tokens.step, tokens.steps)
    if guide == "token":
        logprobs_BT = tokens.logprobs_BT
        return guides.token(logprobs_BT, mask_BT, normal_BT, *when, normalise=normalise, **bounds)
    return guides.random(uniform_BT, mask_BT, normal_BT, *when, **bounds)


def kl_value(logprobs_BT: Tensor, reference_BT: Tensor) -> Tensor:
    """log policy - log reference: its mean over the policy's own tokens is the KL, in nats per token.

    Of the unbiased estimators this one (k1) is shown: k3 is never negative, but its exponential makes single
    tokens jump, while the mean of k1 over a batch of thousands of tokens is steady.
    """
    return logprobs_BT - reference_BT


def _k3(logprobs_BT: Tensor, reference_BT: Tensor) -> Tensor:
    difference_BT = reference_BT - logprobs_BT
    return difference_BT.exp() - difference_BT - 1


def _exact(tokens: AnchorTokens, direction: str) -> Tensor:
    if tokens.exact is None:
        raise WorkbenchError(
            f"The exact {direction} KL needs the whole vocabulary, which was not computed here; "
            "choose an estimator from sampled tokens."
        )
    return tokens.exact(direction)


SAGE = "Lee et al. 2026, SAGE (arXiv 2605.18864)"

ANCHORS: dict[str, Anchor] = {
    "none": Anchor(none, formula="0", source="no anchor"),
    "reverse_kl": Anchor(
        reverse_kl,
        formula=(
            r"\begin{gathered}k_1=-d,\quad k_2=\tfrac12 d^2,\quad k_3=e^{d}-d-1"
            r"\\ d=\log\pi_{ref}-\log\pi"
            r"\\ \mathrm{exact}=\sum_v \pi(v)\log\frac{\pi(v)}{\pi_{ref}(v)}\end{gathered}"
        ),
        source="Schulman 2020, Approximating KL divergence; gradients by place derived in the tests",
        params=(
            Param(
                "estimator",
                "k2",
                "In the loss k2 and exact have the reverse-KL gradient, k3 (GRPO's custom) the forward-KL "
                "one, k1 none on average; in the reward only k1 has it.",
                choices=("k1", "k2", "k3", "exact"),
            ),
            Param(
                "place",
                "loss",
                "Add the penalty to the loss, or take it from the reward of the tokens before it.",
                choices=("loss", "reward"),
            ),
        ),
        in_reward=("place", "reward"),
    ),
    "forward_kl": Anchor(
        forward_kl,
        formula=(
            r"\begin{gathered}\mathrm{exact}=\sum_v \pi_{ref}(v)\log\frac{\pi_{ref}(v)}{\pi(v)}"
            r"\\ \mathrm{samples}=-\log\pi(y_t),\quad y\sim\pi_{ref}\end{gathered}"
        ),
        source="derived here; SAGE compares with a forward KL whose estimator was not available",
        params=(
            Param(
                "source",
                "exact",
                "Sum over the vocabulary where the policy goes, or completions of the reference.",
                choices=("exact", "samples"),
            ),
        ),
        samples=("source", "samples"),
    ),
    "sage": Anchor(
        sage,
        formula=(
            r"\begin{gathered}\mathrm{released}=e^{d_q}-d_q-1"
            r"\\ d_q=\log\pi_{ref}+\log q-\log\pi"
            r"\\ \mathrm{faithful\ reward}=r+\tfrac{\beta}{T}\sum_t\log q_t"
            r"\\ {}-\beta\sum_t\log\frac{\pi}{\pi_{ref}}"
            r"\\ q_{branch}=\mathrm{clip}(1+\mathrm{ratio}\,(H-\mathrm{threshold})_+)\end{gathered}"
        ),
        source=(
            f"{SAGE}: 'released' and the guides follow the released code, 'faithful' is derived here from "
            "the abstract; the paper's own text was not available"
        ),
        params=(
            Param(
                "form",
                "released",
                "The code's loss (a forward-KL pull), or the stated objective through the reward.",
                choices=("released", "faithful"),
            ),
            *GUIDE_PARAMS,
        ),
        in_reward=("form", "faithful"),
    ),
    "scaled_beta": Anchor(
        scaled_beta,
        formula=r"q_t\,k_3(d),\quad d=\log\pi_{ref}-\log\pi",
        source=f"derived here, as a control for {SAGE}; guides from its released code",
        params=GUIDE_PARAMS,
    ),
    "matched_beta": Anchor(
        matched_beta,
        formula=r"\bar q\,k_3(d),\quad \bar q=\text{mean of } q \text{ over the batch}",
        source=f"derived here, as a control for {SAGE}; guides from its released code",
        params=GUIDE_PARAMS,
    ),
}
