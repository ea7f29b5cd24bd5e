"""Statistics of next-token distributions and their KL, with gradient, without all logits at once.

The forward pass goes over all tiles once, with running sums over the vocabulary (an online log-sum-exp); the
backward pass makes every tile again. Where all logits are one tile, that one is kept instead. Logits must
be finite.

C contexts, V vocabulary, M tokens, each after one of the contexts; K contexts and W words of one tile.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from workbench.tiles import Grid, Source, States, accumulators, as_gradients

_LEAST = -1e30  # a running maximum before any logit; finite, so that no inf - inf arises


def logprob_entropy(states: States, contexts_M: Tensor, tokens_M: Tensor) -> tuple[Tensor, Tensor]:
    """Log-prob of each token after its context and the context's entropy, fp32 (M,), with gradient."""
    logprob_M, entropy_M, *_ = _statistics(states, contexts_M, tokens_M, False)
    return logprob_M, entropy_M


def statistics(
    states: States, contexts_M: Tensor, tokens_M: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Log-prob, entropy, log collision probability and self-certainty, each fp32 (M,), with gradient.

    Log collision is log sum p^2; self-certainty is KL(uniform || p) = logsumexp(z) - mean(z) - log V.
    """
    return _statistics(states, contexts_M, tokens_M, True)


def exact_kl(states: States, reference: States, direction: str) -> Tensor:
    """KL of each context's distribution over the whole vocabulary, fp32 (C,), with gradient in `states`.

    "reverse" is KL(states || reference), "forward" KL(reference || states).
    """
    return _KL.apply(states.source, reference.detach(), direction == "forward", *states.tensors)


def _statistics(
    states: States, contexts_M: Tensor, tokens_M: Tensor, more: bool
) -> tuple[Tensor, ...]:
    logits_M, normaliser_C, *others = _Statistics.apply(
        states.source, contexts_M, tokens_M, more, *states.tensors
    )
    picked = (values_C.index_select(0, contexts_M) for values_C in others)
    return logits_M - normaliser_C.index_select(0, contexts_M), *picked


class _Statistics(torch.autograd.Function):
    """The logits of tokens (M,) and, of each context (C,), normaliser and entropy; with `more` also log
    collision and self-certainty."""

    @staticmethod
    def forward(
        ctx: Any, source: Source, contexts_M: Tensor, tokens_M: Tensor, more: bool, *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        C, V, _ = source.sizes(tensors)
        logits_M = torch.zeros(contexts_M.shape, dtype=torch.float32, device=contexts_M.device)
        running = _Running(C, logits_M.device, more)
        kept = ()
        grid = Grid.over((source, tensors))
        places = grid.places(contexts_M, tokens_M)
        for (tile, (part,)), place in zip(grid.walk((source, tensors)), places, strict=True):
            z_KW = source.logits(tensors, tile, part)
            running.add(tile.contexts, z_KW)
            where = contexts_M[place] - tile.contexts.start, tokens_M[place] - tile.words.start
            logits_M[place] = z_KW[where]
            kept = (z_KW,) if grid.count == 1 else ()
        found = running.found(V)
        ctx.source, ctx.kept = source, len(kept)
        ctx.save_for_backward(contexts_M, tokens_M, *found, *kept, *tensors)
        ctx.set_materialize_grads(False)
        return logits_M, *found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, by_logits_M: Tensor | None, *by: Tensor | None) -> tuple[Any, ...]:
        """With n the normaliser, H the entropy and c the log collision, for each logit z_v:

        dn = p_v, dH = -p_v (log p_v + H), dc = 2 p_v (p_v e^-c - 1), and 1/V less than dn for certainty.
        """
        contexts_M, tokens_M, *saved = ctx.saved_tensors
        found, saved = saved[: len(by)], saved[len(by) :]
        kept, tensors = saved[: ctx.kept], saved[ctx.kept :]
        slope_of = _Slope(found, by)
        grid = Grid.over((ctx.source, tensors))
        gradients = accumulators(ctx.source, tensors, ctx.needs_input_grad[4:])
        places = grid.places(contexts_M, tokens_M)
        for (tile, (part,)), place in zip(grid.walk((ctx.source, tensors)), places, strict=True):
            z_KW = kept[0] if kept else ctx.source.logits(tensors, tile, part)
            slope_KW = slope_of(tile.contexts, z_KW, grid.V)
            if by_logits_M is not None:
                where = contexts_M[place] - tile.contexts.start, tokens_M[place] - tile.words.start
                slope_KW.index_put_(where, by_logits_M[place], accumulate=True)
            ctx.source.add(gradients, tensors, tile, part, z_KW, slope_KW)
        return None, None, None, None, *as_gradients(gradients, tensors)


class _KL(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, source: Source, reference: States, forward: bool, *tensors: Tensor
    ) -> Tensor:
        sides = (source, tensors), (reference.source, reference.tensors)
        grid = Grid.over(*sides)
        running, kept = _RunningPair(grid.C, tensors[0].device), ()
        for tile, parts in grid.walk(*sides):
            pair = [
                side.logits(held, tile, part)
                for (side, held), part in zip(sides, parts, strict=True)
            ]
            running.add(tile.contexts, *(reversed(pair) if forward else pair))
            kept = pair if grid.count == 1 else ()
        kl_C, normalisers = running.found()
        ctx.source, ctx.reference, ctx.forward, ctx.kept = source, reference, forward, len(kept)
        normalisers = normalisers[::-1] if forward else normalisers
        ctx.save_for_backward(kl_C, *normalisers, *kept, *tensors)
        return kl_C

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, by_C: Tensor) -> tuple[Any, ...]:
        """dKL(p || q) = p (log p - log q - KL), dKL(q || p) = p - q, for each logit of p."""
        kl_C, mine_C, theirs_C, *saved = ctx.saved_tensors
        kept, tensors = saved[: ctx.kept], saved[ctx.kept :]
        sides = (ctx.source, tensors), (ctx.reference.source, ctx.reference.tensors)
        grid = Grid.over(*sides)
        gradients = accumulators(ctx.source, tensors, ctx.needs_input_grad[3:])
        for tile, parts in grid.walk(*sides):
            z_KW, other_KW = kept or (
                side.logits(held, tile, part)
                for (side, held), part in zip(sides, parts, strict=True)
            )
            logp_KW = z_KW - mine_C[tile.contexts, None]
            other_KW = other_KW - theirs_C[tile.contexts, None]
            if ctx.forward:
                slope_KW = logp_KW.exp_().sub_(other_KW.exp_())
            else:
                other_KW = torch.sub(logp_KW, other_KW, out=other_KW).sub_(
                    kl_C[tile.contexts, None]
                )
                slope_KW = logp_KW.exp_().mul_(other_KW)
            slope_KW.mul_(by_C[tile.contexts, None])
            ctx.source.add(gradients, tensors, tile, parts[0], z_KW, slope_KW)
        return None, None, None, *as_gradients(gradients, tensors)


class _Running:
    """Sums over the words so far of e^(z - m), its square, it times z - m, and z, where m is the maximum."""

    def __init__(self, C: int, device: torch.device, more: bool) -> None:
        self.most_C = torch.full((C,), _LEAST, device=device)
        self.sum_C, self.weighted_C = torch.zeros((2, C), device=device)
        self.square_C, self.plain_C = torch.zeros((2, C), device=device) if more else (None, None)

    def add(self, contexts: slice, z_KW: Tensor) -> None:
        sums = self.most_C, self.sum_C, self.weighted_C
        most, total, weighted = (sum_C[contexts] for sum_C in sums)  # views
        new = torch.maximum(most, z_KW.amax(-1))
        shift = most - new
        down = shift.exp()
        below_KW = z_KW - new[:, None]
        e_KW = below_KW.exp()
        if self.square_C is not None:
            square = self.square_C[contexts]
            square.mul_(down.square()).add_(e_KW.square().sum(-1))
            self.plain_C[contexts] += z_KW.sum(-1)
        weighted.addcmul_(total, shift).mul_(down).add_(below_KW.mul_(e_KW).sum(-1))
        total.mul_(down).add_(e_KW.sum(-1))
        most.copy_(new)

    def found(self, V: int) -> list[Tensor]:
        """Normaliser and entropy of each context; log collision and self-certainty where summed."""
        log_sum_C = self.sum_C.log()
        normaliser_C = self.most_C + log_sum_C
        found = [normaliser_C, log_sum_C - self.weighted_C / self.sum_C]
        if self.square_C is not None:
            found += [
                self.square_C.log() - 2 * log_sum_C,
                normaliser_C - self.plain_C / V - math.log(V),
            ]
        return found


class _RunningPair:
    """As `_Running` for KL(p || q): p's sums of e^(a - m) and of that times (a - m) - (b - n), and q's of
    e^(b - n), for logits a and b with maxima m and n."""

    def __init__(self, C: int, device: torch.device) -> None:
        self.most_2C = torch.full((2, C), _LEAST, device=device)
        self.sum_2C, self.weighted_C = (
            torch.zeros((2, C), device=device),
            torch.zeros(C, device=device),
        )

    def add(self, contexts: slice, a_KW: Tensor, b_KW: Tensor) -> None:
        most, total = self.most_2C[:, contexts], self.sum_2C[:, contexts]
        weighted = self.weighted_C[contexts]
        new = torch.maximum(most, torch.stack((a_KW.amax(-1), b_KW.amax(-1))))
        shift = most - new
        # Before the first tile the sums are 0 and both shifts as good as equal.
        moved = torch.where(most[0] == _LEAST, 0.0, shift[0] - shift[1])
        weighted.addcmul_(total[0], moved).mul_(shift[0].exp())
        total.mul_(shift.exp())
        a_KW, b_KW = a_KW - new[0, :, None], b_KW - new[1, :, None]
        e_KW = a_KW.exp()
        total[0] += e_KW.sum(-1)
        weighted += e_KW.mul_(a_KW.sub_(b_KW)).sum(-1)
        total[1] += b_KW.exp_().sum(-1)
        most.copy_(new)

    def found(self) -> tuple[Tensor, list[Tensor]]:
        """KL(p || q) and the normalisers of p and q."""
        log_2C = self.sum_2C.log()
        kl_C = self.weighted_C / self.sum_2C[0] - log_2C[0] + log_2C[1]
        return kl_C, list(self.most_2C + log_2C)


class _Slope:
    """What the gradients `by` of the contexts' quantities `found` make of a tile's logits."""

    def __init__(self, found: Sequence[Tensor], by: Sequence[Tensor | None]) -> None:
        normaliser_C, entropy_C, *others = found
        by_normaliser_C, by_entropy_C, *by_others = by
        by_collision_C, by_certainty_C = by_others or (None, None)
        self.normaliser_C, self.by_entropy_C = normaliser_C, by_entropy_C
        self.by_certainty_C, self.twice_C = by_certainty_C, None
        self.plain_C = torch.zeros_like(normaliser_C)
        for by_C in (by_normaliser_C, by_certainty_C):
            if by_C is not None:
                self.plain_C += by_C
        if by_entropy_C is not None:
            self.plain_C.addcmul_(by_entropy_C, entropy_C, value=-1)
        if by_collision_C is not None:
            self.plain_C -= 2 * by_collision_C
            self.twice_C = 2 * by_collision_C * (-others[0]).exp()

    def __call__(self, contexts: slice, z_KW: Tensor, V: int) -> Tensor:
        """fp32 (K, W), new memory."""
        logp_KW = z_KW - self.normaliser_C[contexts, None]
        if self.by_entropy_C is None and self.twice_C is None:
            slope_KW = logp_KW.exp_().mul_(self.plain_C[contexts, None])
        else:
            p_KW = logp_KW.exp()
            by_entropy = 0 if self.by_entropy_C is None else self.by_entropy_C[contexts, None]
            slope_KW = logp_KW.mul_(-by_entropy).add_(self.plain_C[contexts, None])
            if self.twice_C is not None:
                slope_KW.addcmul_(p_KW, self.twice_C[contexts, None])
            slope_KW.mul_(p_KW)
        if self.by_certainty_C is not None:
            slope_KW.sub_(self.by_certainty_C[contexts, None] / V)
        return slope_KW
