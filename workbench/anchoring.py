"""The anchor over one batch of rollouts: what its row gets to see, and how its penalty reaches the loss.

A row's penalty acts in one of three ways (`anchors`): beta times it joins the loss; or it is taken from the
reward, as credit for each token; or it is the loss of completions that the reference wrote. The reference is
run here, once per batch, and again where a row asks for the exact KL. A row sees the tokens that are
trained as if there were no others: no penalty falls on a token that the recipe's separation leaves out.

B completions of T tokens, N chosen ones, M those of one minibatch, P prompts, G completions of each.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from workbench.anchors import AnchorTokens, guide_values, kl_value
from workbench.decoding import evaluating
from workbench.guides import GUIDE_PARAMS
from workbench.memory import Memory, effective_beta, reference_of, second_stage
from workbench.microbatches import add_gradient, in_parts
from workbench.models import Policy
from workbench.reading import Reading, read
from workbench.recipe import Recipe
from workbench.rollout import Messages, Rollouts, sample
from workbench.seeds import ANCHOR, REFERENCE, step_seed
from workbench.separating import Separated, separate

DRAWN_SHARE = 4  # of G completions of a prompt, one in this many is drawn from the reference


@dataclass(frozen=True)
class Anchoring:
    """The anchor of `recipe` on one batch; `prepare_anchor` makes it."""

    recipe: Recipe
    policy: Policy
    memory: Memory
    rollouts: Rollouts
    reference_BT: Tensor  # log-probs of all tokens, trained or not
    sampled: AnchorTokens  # the whole batch as recorded while sampling, with only what is trained
    drawn: Rollouts | None  # the reference's completions of the prompts, for rows that want them

    @property
    def beta(self) -> float:
        """The weight of the penalty in this step."""
        return effective_beta(self.recipe, self.memory)

    def penalty(
        self, reading: Reading, logprobs_NT: Tensor, entropies_NT: Tensor, indices_N: Tensor
    ) -> Tensor | None:
        """beta * penalty of the chosen completions, (N, T); None where it acts elsewhere."""
        if self.drawn is not None or _asks(self.recipe, "acts_in_reward"):
            return None
        width = logprobs_NT.shape[1]
        tokens = dataclasses.replace(
            self.sampled,
            logprobs_BT=logprobs_NT,
            reference_BT=self.sampled.reference_BT[indices_N, :width],
            mask_BT=reading.mask_NT,
            entropies_BT=entropies_NT.detach(),
            noise_2BT=self.sampled.noise_2BT[:, indices_N, :width],
            sampled=self.sampled,
            exact=functools.partial(
                _exact, self.policy, self.memory, self.rollouts, reading, indices_N
            ),
        )
        return self.beta * self._row(tokens)

    def credit(self) -> Tensor | None:
        """What a penalty in the reward adds to each token's advantage, (B, T); None where it acts elsewhere.

        Minus beta times the penalties from this token on, less the mean of the same for the group's other
        completions at this position: they are independent of this one, so nothing is biased. Answers to the
        same thought are left out of that mean: they share its tokens.
        """
        if not _asks(self.recipe, "acts_in_reward"):
            return None
        mask_BT = self.sampled.mask_BT
        penalty_BT = self._row(self.sampled).detach() * mask_BT
        to_go_BT = penalty_BT.flip(-1).cumsum(-1).flip(-1)
        answers = self.recipe.answers_per_thought
        to_go_PGT = to_go_BT.view(self.rollouts.P, self.rollouts.G, -1)
        thought_PKT = to_go_PGT.unflatten(1, (-1, answers)).sum(2)
        own_PGT = thought_PKT.repeat_interleave(answers, 1)
        others_PGT = to_go_PGT.sum(1, keepdim=True) - own_PGT
        baseline_BT = (others_PGT / max(self.rollouts.G - answers, 1)).view_as(to_go_BT)
        return -self.beta * (to_go_BT - baseline_BT) * mask_BT

    def pull_to_drawn(self, indices_M: Tensor) -> float:
        """Add the gradient of the loss on the reference's completions of a minibatch's prompts; the loss."""
        drawn = self.drawn
        if drawn is None:
            return 0.0
        prompts = torch.unique(indices_M // self.rollouts.G)
        places_G = torch.arange(drawn.G, device=prompts.device)
        rows_M = (prompts[:, None] * drawn.G + places_G).flatten()
        trained_BT = self._separated(drawn).trained_BT
        weights_BT = torch.zeros_like(drawn.logprobs_BT)
        weights_BT[rows_M] = self.recipe.variant("aggregation")(
            trained_BT[rows_M].float(), self.recipe.max_new_tokens
        )
        rows_M = rows_M[trained_BT[rows_M].any(-1)]

        def pull(rows_N: Tensor) -> float:
            reading = read(self.policy, drawn, rows_N).only(trained_BT[rows_N])
            logprobs_NT, entropies_NT = reading.logprobs_entropies()
            width = logprobs_NT.shape[1]
            tokens = dataclasses.replace(
                self.sampled,
                logprobs_BT=logprobs_NT,
                reference_BT=_only(drawn.logprobs_BT, trained_BT)[rows_N, :width],
                mask_BT=reading.mask_NT,
                entropies_BT=entropies_NT.detach(),
                noise_2BT=_noise(self.recipe, self.sampled.step, logprobs_NT),
                exact=None,
            )
            loss_NT = self.beta * self._row(tokens) * weights_BT[rows_N, :width]
            loss = loss_NT[reading.mask_NT].sum()
            add_gradient(self.policy.model, self.memory.scaler.scale(loss))
            return float(loss.detach())

        model = self.policy.model
        parts = in_parts(pull, rows_M, drawn, model, self.recipe, self.memory)
        return sum((loss for _, loss in parts), 0.0)

    def kl(self, drawn: Rollouts) -> dict[str, float]:
        """train/kl: KL(policy || reference) in nats a token, the mean of k1 over unselected completions.

        It is over all tokens, trained or not. train/kl_answer is the same over the answers' tokens, where
        these can be told apart: so far answers have drifted, although they may be masked.
        """
        reference_BT = self.reference_BT
        if drawn is not self.rollouts:
            reference_BT = reference_logprobs(self.recipe, self.policy, self.memory, drawn)
        kl_BT = kl_value(drawn.logprobs_BT, reference_BT)
        own_BT = drawn.mask_BT & drawn.sampled_BT
        measured = {"train/kl": float(kl_BT[own_BT].mean())}
        parts = self._separated(drawn)
        answers_BT = own_BT & ~parts.thinking_BT
        if parts.malformed_B is not None and bool(answers_BT.any()):
            measured["train/kl_answer"] = float(kl_BT[answers_BT].mean())
        return measured

    def metrics(self) -> dict[str, float]:
        """train/guide (mean q over the tokens) and train/guided (share of tokens with q off 1)."""
        found = self.guides()
        q = found["guides"][self.sampled.mask_BT] if found else torch.empty(0)
        if not len(q):  # no guide, or nothing was trained
            return {}
        return {"train/guide": float(q.mean()), "train/guided": float((q != 1).float().mean())}

    def guides(self) -> dict[str, Tensor]:
        """guides: q of every token, (B, T), 1 where it is not trained; empty for an anchor without q."""
        row = self.recipe.variant("anchor")
        known = getattr(row, "defaults", {}) | self.recipe.anchor_args
        if not {param.name for param in GUIDE_PARAMS} <= set(known):
            return {}
        guide = {param.name: known[param.name] for param in GUIDE_PARAMS}
        return {"guides": guide_values(self.sampled, **guide)}

    def _separated(self, rollouts: Rollouts) -> Separated:
        late = second_stage(self.memory, self.recipe, self.sampled.step)
        return separate(self.policy, self.recipe, rollouts, late)

    def _row(self, tokens: AnchorTokens) -> Tensor:
        return self.recipe.variant("anchor")(tokens, **self.recipe.anchor_args)


def prepare_anchor(
    recipe: Recipe,
    policy: Policy,
    memory: Memory,
    rollouts: Rollouts,
    step: int,
    messages: Sequence[Messages],
    trained_BT: Tensor,
) -> Anchoring:
    """Run the reference over the batch and collect what the anchor's row may look at."""
    reference_BT = reference_logprobs(recipe, policy, memory, rollouts)
    sampled = AnchorTokens(
        logprobs_BT=_only(rollouts.logprobs_BT, trained_BT),
        reference_BT=_only(reference_BT, trained_BT),
        mask_BT=trained_BT,
        entropies_BT=rollouts.entropies_BT,
        step=step,
        steps=recipe.steps,
        noise_2BT=_noise(recipe, step, rollouts.logprobs_BT),
        exact=functools.partial(_exact_whole, recipe, policy, memory, rollouts),
    )
    drawn = None
    if recipe.beta and _asks(recipe, "uses_samples"):
        drawn = reference_completions(recipe, policy, memory, step, messages)
    return Anchoring(recipe, policy, memory, rollouts, reference_BT, sampled, drawn)


@torch.no_grad()
def reference_logprobs(
    recipe: Recipe, policy: Policy, memory: Memory, rollouts: Rollouts
) -> Tensor:
    """Log-probs of the completions under the reference, (B, T)."""

    def logprobs(indices_N: Tensor) -> Tensor:
        return read(policy, rollouts, indices_N).logprobs_entropies()[0]

    with reference_of(policy, memory):
        return _whole(logprobs, recipe, policy, memory, rollouts)


def reference_completions(
    recipe: Recipe, policy: Policy, memory: Memory, step: int, messages: Sequence[Messages]
) -> Rollouts:
    """Completions of the step's prompts by the reference, at temperature 1."""
    adapter = policy.base_adapter() if memory.reference is None else memory.reference
    with policy.holding(adapter):
        return sample(
            policy,
            messages,
            group_size=max(1, recipe.group_size // DRAWN_SHARE),
            max_new_tokens=recipe.max_new_tokens,
            seed=step_seed(recipe.seed, step, REFERENCE),
        )


def _exact(
    policy: Policy,
    memory: Memory,
    rollouts: Rollouts,
    reading: Reading,
    indices_N: Tensor,
    direction: str,
) -> Tensor:
    """The exact KL of each state that `reading` went through, (N, T), with its gradient."""
    with torch.no_grad(), reference_of(policy, memory):
        reference = read(policy, rollouts, indices_N)
    return reading.exact_kl(reference, direction)


@torch.no_grad()
def _exact_whole(
    recipe: Recipe, policy: Policy, memory: Memory, rollouts: Rollouts, direction: str
) -> Tensor:
    """The exact KL of every state of the batch, (B, T), without gradient."""

    def exact(indices_N: Tensor) -> Tensor:
        reading = read(policy, rollouts, indices_N)
        return _exact(policy, memory, rollouts, reading, indices_N, direction)

    with evaluating(policy.model):
        return _whole(exact, recipe, policy, memory, rollouts)


def _whole(
    values: Callable[[Tensor], Tensor],
    recipe: Recipe,
    policy: Policy,
    memory: Memory,
    rollouts: Rollouts,
) -> Tensor:
    """`values` (N, up to T) of all rows of a batch, taken in microbatches, as (B, T)."""
    found_BT = torch.zeros_like(rollouts.logprobs_BT)
    rows_B = torch.arange(rollouts.B, device=found_BT.device)
    for rows_N, values_NT in in_parts(values, rows_B, rollouts, policy.model, recipe, memory):
        found_BT[rows_N, : values_NT.shape[1]] = values_NT
    return found_BT


def _noise(recipe: Recipe, step: int, like_BT: Tensor) -> Tensor:
    """Normal [0] and uniform [1] draws of the shape of `like_BT`."""
    generator = torch.Generator().manual_seed(step_seed(recipe.seed, step, ANCHOR))
    normal_BT = torch.randn(like_BT.shape, generator=generator)
    uniform_BT = torch.rand(like_BT.shape, generator=generator)
    return torch.stack((normal_BT, uniform_BT)).to(like_BT.device)


def _only(values_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """`values_BT` with 0 off the mask."""
    return values_BT.masked_fill(~mask_BT, 0.0)


def _asks(recipe: Recipe, question: str) -> bool:
    """What the anchor's row says of itself; a function of the user's joins the loss."""
    answer: Any = getattr(recipe.variant("anchor"), question, None)
    return answer is not None and answer(recipe.anchor_args)
