"""Tiles of logits: how they are cut, and what heads make of hidden states, against whole matrices."""

import pytest
import torch

from workbench import tiles
from workbench.tiles import Grid, Linear, States, Tile, accumulators, given


def linear(C=7, V=11, H=3, R=2, **settings):
    """States of a random head with every term, and its logits by the formula."""
    draw = torch.Generator().manual_seed(0)
    hidden, weight, bias = (torch.randn(*s, generator=draw) for s in ((C, H), (V, H), (V,)))
    low, up = torch.randn(C, R, generator=draw), torch.randn(V, R, generator=draw)
    source = Linear(weight.__getitem__, V, bias, **settings)
    logits = (hidden @ weight.T + bias + low @ up.T) * source.scale
    if source.cap is not None:
        logits = source.cap * (logits / source.cap).tanh()
    return States(source, (hidden, low, up)), logits


@pytest.mark.parametrize("size", [1, 2, 6, 14, 100, 2**23])
def test_the_tiles_cover_every_logit_once_and_none_is_larger(monkeypatch, size):
    monkeypatch.setattr(tiles, "TILE", size)
    states, _ = linear()
    side = states.source, states.tensors
    grid = Grid.over(side)
    met = torch.zeros(7, 11, dtype=torch.int)
    count = 0
    for tile, (part,) in grid.walk(side):
        met[tile.contexts, tile.words] += 1
        count += 1
        assert met[tile.contexts, tile.words].numel() <= size
        assert part.numel() <= max(size, 3)  # a word's row is never split
    assert (met == 1).all() and count == grid.count


@pytest.mark.parametrize("size", [1, 6, 14, 2**23])
def test_every_token_is_found_in_the_tile_that_holds_it(monkeypatch, size):
    monkeypatch.setattr(tiles, "TILE", size)
    states, logits = linear()
    side = states.source, states.tensors
    grid = Grid.over(side)
    contexts = torch.tensor([0, 6, 3, 3, 0, 5])
    tokens = torch.tensor([10, 0, 4, 4, 2, 7])
    found = torch.full((6,), torch.nan)
    places = grid.places(contexts, tokens)
    assert len(places) == grid.count
    for (tile, (part,)), place in zip(grid.walk(side), places, strict=True):
        z = states.source.logits(states.tensors, tile, part)
        found[place] = z[contexts[place] - tile.contexts.start, tokens[place] - tile.words.start]
    torch.testing.assert_close(found, logits[contexts, tokens])


@pytest.mark.parametrize("settings", [{}, {"scale": 0.25}, {"cap": 2.0}, {"scale": 3, "cap": 5.0}])
def test_a_heads_logits_and_gradients_are_autograds(settings):
    states, logits = linear(**settings)
    torch.testing.assert_close(states.logits(), logits)
    for tensor in states.tensors:
        tensor.requires_grad_()
    weights = torch.randn(logits.shape, generator=torch.Generator().manual_seed(1))
    source, (hidden, low, up) = states.source, states.tensors
    z = hidden @ source.rows(slice(None)).T + source.bias_V + low @ up.T
    z = z * source.scale
    z = z if source.cap is None else source.cap * (z / source.cap).tanh()
    wanted = torch.autograd.grad((z * weights).sum(), states.tensors)
    with torch.no_grad():
        found = accumulators(source, states.tensors, [True] * 3)
        for words in (slice(0, 4), slice(4, 11)):
            part = source.part(states.tensors, words)
            for contexts in (slice(0, 5), slice(5, 7)):
                tile = Tile(contexts, words)
                slope = weights[contexts, words].clone()
                z = source.logits(states.tensors, tile, part)
                source.add(found, states.tensors, tile, part, z, slope)
    for mine, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-5)


def test_a_tensor_without_need_gets_no_gradient():
    states, _ = linear()
    found = accumulators(states.source, states.tensors, [False, True, False])
    assert found[0] is found[2] is None and found[1].shape == (7, 2)


def test_given_logits_are_themselves():
    logits = torch.randn(5, 4, generator=torch.Generator().manual_seed(0)).bfloat16()
    states = given(logits.requires_grad_())
    assert (
        torch.equal(states.logits(), logits.float())
        and not states.detach().tensors[0].requires_grad
    )
    assert states.source.sizes(states.tensors) == (5, 4, 1)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_on_the_gpu_is_multiplied_with_sums_in_fp32(dtype):
    draw = torch.Generator().manual_seed(0)
    hidden = torch.randn(64, 256, generator=draw).cuda().to(dtype)
    weight = torch.randn(512, 256, generator=draw).cuda().to(dtype)
    states = States(Linear(weight.__getitem__, 512), (hidden,))
    wanted = hidden.float() @ weight.float().T
    torch.testing.assert_close(states.logits(), wanted, atol=1e-3, rtol=1e-4)
    slope = torch.randn(64, 512, generator=draw).cuda() * 1e-9  # below the least number of fp16
    found = accumulators(states.source, states.tensors, [True])
    tile = Tile(slice(0, 64), slice(0, 512))
    part = states.source.part(states.tensors, tile.words)
    states.source.add(found, states.tensors, tile, part, wanted, slope.clone())
    theirs = slope @ weight.float()
    assert (found[0] - theirs).abs().max() < 0.01 * theirs.abs().max()
