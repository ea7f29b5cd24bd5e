"""Logits that exist one tile at a time: what they are made of, how they are cut, what their slopes add up to.

A tile is some contexts times some words of the vocabulary.

C contexts, V vocabulary, H hidden size, R rank of a low-rank term; K contexts and W words of one tile.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

TILE = 2**23  # fp32 entries of one tile of logits, and of the part of the head that makes it


class Tile(NamedTuple):
    """Where a tile lies."""

    contexts: slice
    words: slice


class Source(Protocol):
    """How logits are made from the tensors that may need a gradient."""

    def sizes(self, tensors: Sequence[Tensor]) -> tuple[int, int, int]:
        """C, V and how many entries a word's part of the head has."""
        ...

    def part(self, tensors: Sequence[Tensor], words: slice) -> Any:
        """What the tiles of these words share."""
        ...

    def logits(self, tensors: Sequence[Tensor], tile: Tile, part: Any) -> Tensor:
        """One tile, fp32 (K, W)."""
        ...

    def add(
        self,
        gradients: Sequence[Tensor | None],
        tensors: Sequence[Tensor],
        tile: Tile,
        part: Any,
        z_KW: Tensor,
        slope_KW: Tensor,
    ) -> None:
        """Add to the tensors' gradients what a tile's logits and their slope, fp32, make of them.

        `slope_KW` may be overwritten.
        """
        ...

    def gradient_dtype(self, tensor: Tensor) -> torch.dtype:
        """What the gradient of `tensor` is gathered in."""
        ...


@dataclass(frozen=True)
class States:
    """What the logits of C contexts are made of."""

    source: Source
    tensors: tuple[Tensor, ...]

    def logits(self) -> Tensor:
        """All logits, fp32 (C, V), without gradient: for looking at few contexts or a small vocabulary."""
        with torch.no_grad():
            C, V, _ = self.source.sizes(self.tensors)
            words = slice(0, V)
            part = self.source.part(self.tensors, words)
            return self.source.logits(self.tensors, Tile(slice(0, C), words), part)

    def detach(self) -> States:
        """The same without gradient, and as it is now whatever the parameters become."""
        return States(self.source, tuple(tensor.detach() for tensor in self.tensors))


@dataclass(frozen=True)
class Given:
    """Logits that exist already; the one tensor is logits_CV."""

    def sizes(self, tensors: Sequence[Tensor]) -> tuple[int, int, int]:
        return *tensors[0].shape, 1

    def part(self, tensors: Sequence[Tensor], words: slice) -> None:
        return None

    def logits(self, tensors: Sequence[Tensor], tile: Tile, part: None) -> Tensor:
        return tensors[0][tile.contexts, tile.words].float()

    def add(
        self,
        gradients: Sequence[Tensor | None],
        tensors: Sequence[Tensor],
        tile: Tile,
        part: None,
        z_KW: Tensor,
        slope_KW: Tensor,
    ) -> None:
        gradients[0][tile.contexts, tile.words] = slope_KW.to(
            gradients[0].dtype
        )  # each is met once

    def gradient_dtype(self, tensor: Tensor) -> torch.dtype:
        return tensor.dtype


@dataclass(frozen=True)
class Linear:
    """A head: cap * tanh(scale * (hidden W^T + bias + low up^T) / cap); without a cap, what is inside.

    The tensors are hidden_CH and, where the head has a low-rank term, low_CR and up_VR.
    """

    rows: Callable[[slice], Tensor]  # the frozen rows of some words of W, (W, H)
    V: int
    bias_V: Tensor | None = None
    scale: float = 1.0
    cap: float | None = None

    def sizes(self, tensors: Sequence[Tensor]) -> tuple[int, int, int]:
        return tensors[0].shape[0], self.V, tensors[0].shape[1]

    def part(self, tensors: Sequence[Tensor], words: slice) -> Tensor:
        return self.rows(words).to(_product_dtype(tensors[0]))

    def logits(self, tensors: Sequence[Tensor], tile: Tile, part: Tensor) -> Tensor:
        z_KW = _times(tensors[0][tile.contexts].to(part.dtype), part.T)
        if self.bias_V is not None:
            z_KW += self.bias_V[tile.words]
        if len(tensors) > 1:
            z_KW.addmm_(tensors[1][tile.contexts].float(), tensors[2][tile.words].float().T)
        if self.scale != 1:
            z_KW *= self.scale
        return z_KW if self.cap is None else z_KW.div_(self.cap).tanh_().mul_(self.cap)

    def add(
        self,
        gradients: Sequence[Tensor | None],
        tensors: Sequence[Tensor],
        tile: Tile,
        part: Tensor,
        z_KW: Tensor,
        slope_KW: Tensor,
    ) -> None:
        if self.cap is not None:
            slope_KW.mul_(1 - (z_KW / self.cap).square_())
        if self.scale != 1:
            slope_KW *= self.scale
        if gradients[0] is not None:
            _add_product(gradients[0][tile.contexts], slope_KW, part)
        if len(tensors) > 1 and gradients[1] is not None:
            gradients[1][tile.contexts].addmm_(slope_KW, tensors[2][tile.words].float())
        if len(tensors) > 1 and gradients[2] is not None:
            gradients[2][tile.words].addmm_(slope_KW.T, tensors[1][tile.contexts].float())

    def gradient_dtype(self, tensor: Tensor) -> torch.dtype:
        return torch.float32


def given(logits_CV: Tensor) -> States:
    """States whose logits exist already."""
    return States(Given(), (logits_CV,))


@dataclass(frozen=True)
class Grid:
    """How C contexts and V words are cut: words outside, so that a part of the head is made once a pass."""

    C: int
    V: int
    K: int
    W: int

    @classmethod
    def over(cls, *sides: tuple[Source, Sequence[Tensor]]) -> Grid:
        """Tiles of at most TILE logits, whose part of the head has at most TILE entries, too."""
        sizes = [source.sizes(tensors) for source, tensors in sides]
        C, V, _ = sizes[0]
        W = max(1, min(V, TILE // max(depth for _, _, depth in sizes)))
        return cls(C, V, max(1, min(C, TILE // W)), W)

    @property
    def count(self) -> int:
        """How many tiles there are."""
        return math.ceil(self.C / self.K) * math.ceil(self.V / self.W)

    def walk(self, *sides: tuple[Source, Sequence[Tensor]]) -> Iterator[tuple[Tile, list[Any]]]:
        """Every tile, and the parts of the sources' heads that make it."""
        for word in range(0, self.V, self.W):
            words = slice(word, min(word + self.W, self.V))
            parts = [source.part(tensors, words) for source, tensors in sides]
            for context in range(0, self.C, self.K):
                yield Tile(slice(context, min(context + self.K, self.C)), words), parts

    def places(self, contexts_M: Tensor, tokens_M: Tensor) -> Sequence[Any]:
        """Which tokens fall into each tile, in the order of `walk`."""
        if self.count <= 1:
            return [slice(None)] * self.count
        number_M = tokens_M // self.W * math.ceil(self.C / self.K) + contexts_M // self.K
        counts = number_M.bincount(minlength=self.count).tolist()
        return number_M.argsort(stable=True).split(counts)


def accumulators(
    source: Source, tensors: Sequence[Tensor], needed: Sequence[bool]
) -> list[Tensor | None]:
    """Zeros to gather the gradients in, of the tensors that need one."""
    return [
        torch.zeros_like(tensor, dtype=source.gradient_dtype(tensor)) if need else None
        for tensor, need in zip(tensors, needed, strict=True)
    ]


def as_gradients(
    gradients: Sequence[Tensor | None], tensors: Sequence[Tensor]
) -> Iterator[Tensor | None]:
    """The sums in their tensors' own types."""
    for gradient, tensor in zip(gradients, tensors, strict=True):
        yield None if gradient is None else gradient.to(tensor.dtype)


def _product_dtype(hidden: Tensor) -> torch.dtype:
    """Half precision is multiplied as such where the product can be fp32: on CUDA."""
    return hidden.dtype if hidden.is_cuda else torch.float32


def _times(a: Tensor, b: Tensor) -> Tensor:
    """a @ b in fp32, whatever their type; half precision on CUDA alone."""
    if a.dtype == torch.float32:
        return a @ b
    return torch.mm(a, b, out_dtype=torch.float32)


def _add_product(total_KH: Tensor, slope_KW: Tensor, part_WH: Tensor) -> None:
    """total += slope @ part, in fp32; before a slope turns to half precision it is brought near 1, off 0."""
    if part_WH.dtype == torch.float32:
        total_KH.addmm_(slope_KW, part_WH)
        return
    size_K1 = slope_KW.abs().amax(-1, keepdim=True).clamp_(min=torch.finfo(torch.float32).tiny)
    near_one_KW = (slope_KW / size_K1).to(part_WH.dtype)
    total_KH.addcmul_(_times(near_one_KW, part_WH), size_K1)
