"""Tiled statistics and KL against the naive formulas on full logits, in value, gradient and memory."""

import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from workbench import tiles
from workbench.likelihoods import exact_kl, logprob_entropy, statistics
from workbench.tiles import Linear, States, given

C, V, H, R, M = 9, 23, 5, 2, 30
SIZES = [1, 7, 5 * 4, 23 * 5, 2**23]  # of a tile: single logits, parts that do not divide, one tile


def draws(*shapes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(*shape, generator=generator) for shape in shapes]


def tokens(C=C, V=V, M=M):
    """Contexts that are shared, some with the same token, and one that nothing follows."""
    generator = torch.Generator().manual_seed(1)
    contexts = torch.randint(0, C - 1, (M,), generator=generator)
    return contexts, torch.randint(0, V, (M,), generator=generator) % 6 * (V // 6)


def head(terms, dtype=torch.float32, seed=0):
    """States of a head of these terms, with gradient, and what makes their logits of the tensors."""
    hidden, weight, bias, low, up = draws((C, H), (V, H), (V,), (C, R), (V, R), seed=seed)
    hidden, weight = (hidden * 2).to(dtype), weight.to(dtype)
    scale, cap = terms.get("scale", 1.0), terms.get("cap")
    bias = bias.to(dtype) if terms.get("bias") else None
    source = Linear(weight.__getitem__, V, bias, scale, cap)

    def logits(hidden, low=None, up=None):
        z = hidden.float() @ weight.float().T
        z = z if bias is None else z + bias.float()
        z = (z if low is None else z + low @ up.T) * scale
        return z if cap is None else cap * (z / cap).tanh()

    tensors = (hidden, low, up) if terms.get("lora") else (hidden,)
    return States(source, tuple(tensor.requires_grad_() for tensor in tensors)), logits


def naive(z, contexts, chosen):
    """The four by their definitions."""
    logp = z.log_softmax(-1)
    p = logp.exp()
    of_context = (
        -(p * logp).sum(-1),
        p.square().sum(-1).log(),
        -logp.mean(-1) - math.log(z.shape[-1]),
    )
    return logp[contexts, chosen], *(values[contexts] for values in of_context)


TERMS = [
    {},
    {"bias": True},
    {"lora": True},
    {"scale": 0.3},
    {"cap": 3.0},
    {"bias": True, "lora": True, "scale": 2.0, "cap": 4.0},
]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("terms", TERMS, ids=" ".join)
def test_all_four_and_their_gradients_are_the_naive_ones(monkeypatch, terms, size):
    monkeypatch.setattr(tiles, "TILE", size)
    states, logits = head(terms)
    contexts, chosen = tokens()
    wanted = naive(logits(*states.tensors), contexts, chosen)
    found = statistics(states, contexts, chosen)
    for mine, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-5)
    weights = draws(*[(M,)] * 4, seed=2)
    for one in ([0], [1], [2], [3], [0, 1, 2, 3]):  # each alone, so that none hides behind another
        loss = sum((found[i] * weights[i]).sum() for i in one)
        theirs = sum((wanted[i] * weights[i]).sum() for i in one)
        mine = torch.autograd.grad(loss, states.tensors, retain_graph=True)
        theirs = torch.autograd.grad(theirs, states.tensors, retain_graph=True)
        for a, b in zip(mine, theirs, strict=True):
            torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-4)
            assert b.abs().max() > 1e-2


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("direction", ["reverse", "forward"])
@pytest.mark.parametrize("terms", TERMS[::2] + TERMS[-1:], ids=" ".join)
def test_the_kl_and_its_gradient_are_the_naive_ones(monkeypatch, terms, direction, size):
    monkeypatch.setattr(tiles, "TILE", size)
    states, logits = head(terms)
    reference, other_logits = head({"bias": True}, seed=4)
    logp = logits(*states.tensors).log_softmax(-1)
    ref = other_logits(*reference.tensors).log_softmax(-1).detach()
    first, second = (logp, ref) if direction == "reverse" else (ref, logp)
    wanted = (first.exp() * (first - second)).sum(-1)
    found = exact_kl(states, reference, direction)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
    (weights,) = draws((C,), seed=2)
    mine = torch.autograd.grad((found * weights).sum(), states.tensors)
    for a, b in zip(
        mine, torch.autograd.grad((wanted * weights).sum(), states.tensors), strict=True
    ):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_the_kl_to_itself_is_0_and_its_reference_gets_no_gradient():
    states, _ = head({"lora": True})
    for direction in ("reverse", "forward"):
        found = exact_kl(states, states, direction)
        assert found.abs().max() < 1e-6
        assert all(g.abs().max() < 1e-5 for g in torch.autograd.grad(found.sum(), states.tensors))


@pytest.mark.parametrize("size", [7, 2**23])
def test_by_hand(monkeypatch, size):
    monkeypatch.setattr(tiles, "TILE", size)
    z = torch.tensor([[0.0, 0.0, 0.0, 0.0], [math.log(3.0), 0.0, -300.0, -300.0]])
    found = torch.stack(statistics(given(z), torch.tensor([0, 1]), torch.tensor([2, 0])))
    # Uniform over four; then 3/4 and 1/4, entropy ln 4 - (3/4) ln 3, collision 9/16 + 1/16.
    assert found[0].tolist() == pytest.approx([-math.log(4), math.log(0.75)])
    assert found[1].tolist() == pytest.approx([math.log(4), math.log(4) - 0.75 * math.log(3)])
    assert found[2].tolist() == pytest.approx([math.log(0.25), math.log(0.625)])
    certainty = math.log(4) - (math.log(3) - 600) / 4 - math.log(4)
    assert found[3].tolist() == pytest.approx([0.0, certainty], rel=1e-6, abs=1e-6)
    # KL(first || second), the improbable tokens held off 0.
    kl = exact_kl(given(z[:1]), given(z[1:]), "reverse")
    assert float(kl) == pytest.approx(-math.log(4) - (math.log(3) - 600) / 4 + math.log(4))


@pytest.mark.parametrize("size", [40, 2**23])
def test_peaked_distributions_keep_their_small_entropies(monkeypatch, size):
    """Far-off logits and nearly all the probability on one token: fp64 is the judge."""
    monkeypatch.setattr(tiles, "TILE", size)
    (z,) = draws((C, V))
    z[:, 4] += torch.linspace(5, 60, C)
    z += 500
    z[:, 7] = -200.0
    mine, plain = z.clone().requires_grad_(), z.double().requires_grad_()
    contexts, chosen = torch.arange(C), torch.arange(C)
    found, wanted = statistics(given(mine), contexts, chosen), naive(plain, contexts, chosen)
    torch.testing.assert_close(found[1].double(), wanted[1], atol=2e-6, rtol=1e-4)
    for a, b in zip(found[::2], wanted[::2], strict=True):
        torch.testing.assert_close(a.double(), b, atol=1e-4, rtol=1e-6)
    sum(f.sum() for f in found).backward()
    sum(w.sum() for w in wanted).backward()
    torch.testing.assert_close(mine.grad.double(), plain.grad, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", [20, 2**23])
def test_half_precision_is_summed_in_fp32(monkeypatch, dtype, size):
    """Values as exact as fp32 ones of the same rounded inputs, gradients rounded once, at the end."""
    monkeypatch.setattr(tiles, "TILE", size)
    states, logits = head({"bias": True, "lora": True}, dtype)
    contexts, chosen = tokens()
    found = logprob_entropy(states, contexts, chosen)
    wanted = naive(logits(*states.tensors), contexts, chosen)[:2]
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
    mine = torch.autograd.grad(found[0].sum(), states.tensors)
    theirs = torch.autograd.grad(wanted[0].sum(), states.tensors)
    assert mine[0].dtype == dtype
    rounding = torch.finfo(dtype).eps
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=rounding * 4, rtol=rounding * 2)


def test_bf16_logits_that_are_given_get_a_bf16_gradient(monkeypatch):
    monkeypatch.setattr(tiles, "TILE", 40)
    (z,) = draws((C, V))
    mine, plain = z.bfloat16().requires_grad_(), z.bfloat16().float().requires_grad_()
    contexts, chosen = tokens()
    logprob_entropy(given(mine), contexts, chosen)[0].sum().backward()
    naive(plain, contexts, chosen)[0].sum().backward()
    assert mine.grad.dtype == torch.bfloat16
    assert torch.equal(mine.grad, plain.grad.bfloat16())


class Largest(TorchDispatchMode):
    """The most entries of a tensor that was made anew, not a view of one that was there."""

    def __init__(self):
        super().__init__()
        self.entries = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        output = function(*args, **(kwargs or {}))
        old = {
            t.untyped_storage().data_ptr()
            for t in tree_leaves((args, kwargs))
            if torch.is_tensor(t)
        }
        for made in tree_leaves(output):
            if torch.is_tensor(made) and made.untyped_storage().data_ptr() not in old:
                self.entries = max(self.entries, made.untyped_storage().nbytes() // 4)
        return output


def footprint(C, V, kl):
    """Entries of the largest tensor made in both passes, and of all that the graph saves."""
    hidden, weight, other = draws((C, H), (V, H), (C, H))
    states = States(Linear(weight.__getitem__, V), (hidden.requires_grad_(),))
    reference = States(states.source, (other,))
    saved = {}

    def pack(tensor):
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes() // 4
        return tensor

    contexts = torch.arange(C)
    with Largest() as largest, torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        if kl:
            loss = exact_kl(states, reference, "reverse").sum()
        else:
            loss = sum(part.sum() for part in statistics(states, contexts, contexts % V))
        loss.backward()
    return largest.entries, sum(saved.values())


@pytest.mark.parametrize("kl", [False, True])
def test_memory_grows_with_the_tile_and_not_with_contexts_times_vocabulary(monkeypatch, kl):
    monkeypatch.setattr(tiles, "TILE", 2000)
    largest, saved = footprint(60, 500, kl)
    assert largest == 2000
    assert footprint(60, 4000, kl) == (2000, saved)  # eight vocabularies
    more_largest, more_saved = footprint(
        240, 500, kl
    )  # four times the contexts, H and a few numbers each
    assert more_largest == 2000 and more_saved <= 4 * saved
    assert saved < 60 * (H + 12)
    monkeypatch.setattr(tiles, "TILE", 4000)
    assert footprint(60, 4000, kl) == (4000, saved)
    monkeypatch.setattr(tiles, "TILE", 2**23)  # one tile: the measuring sees what is held
    largest, held = footprint(60, 500, kl)
    assert largest == 60 * 500 and held >= 60 * 500


def test_no_contexts_are_no_error():
    empty = torch.empty(0, dtype=torch.long)
    states, _ = head({})
    none = States(states.source, (states.tensors[0][:0],))
    assert [part.shape for part in statistics(none, empty, empty)] == [(0,)] * 4
