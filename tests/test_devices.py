"""What each kind of device computes in, from injected facts; loss scaling on toy tensors."""

import pytest
import torch
from torch import nn

from workbench import devices
from workbench.devices import (
    Facts,
    check_quantize,
    compute_dtype,
    dtype_of,
    find_device,
    loss_scaler,
    segments_advice,
)
from workbench.memory import Memory
from workbench.models import load_policy
from workbench.recipe import Recipe
from workbench.trainer import NonFiniteError, prepare, train_step
from workbench.variants import WorkbenchError

CPU = torch.device("cpu")
T4, A100 = Facts("cuda", (7, 5)), Facts("cuda", (8, 0))


@pytest.mark.parametrize(
    ("facts", "dtype"),
    [
        (Facts("cpu"), torch.float32),
        (Facts("mps"), torch.float32),
        (Facts("cuda", (7, 0)), torch.float16),
        (T4, torch.float16),
        (A100, torch.bfloat16),
        (Facts("cuda", (12, 0)), torch.bfloat16),
    ],
    ids=str,
)
def test_each_device_has_its_type(facts, dtype):
    assert dtype_of(facts) == dtype


@pytest.mark.parametrize("facts", [Facts("xpu"), Facts("cuda", (9, 4), amd=True)], ids=str)
def test_other_devices_are_refused_with_what_to_do(facts):
    with pytest.raises(WorkbenchError, match="not supported; set device='cpu'"):
        dtype_of(facts)


def test_quantisations_without_kernels_are_refused():
    check_quantize(Facts("mps"), "none")
    check_quantize(T4, "int8")
    check_quantize(Facts("cuda", (7, 0)), "nf4")
    for quantize in ("nf4", "int8"):
        with pytest.raises(WorkbenchError, match=f"{quantize}.*set quantize='none'"):
            check_quantize(Facts("mps"), quantize)
        with pytest.raises(WorkbenchError, match=f"{quantize}.*set quantize='none'"):
            Recipe(device="mps", quantize=quantize)
    assert Recipe(device="mps", quantize="none").device == "mps"
    with pytest.raises(WorkbenchError, match="newer card"):
        check_quantize(Facts("cuda", (7, 0)), "int8")


def test_names_of_devices(monkeypatch):
    assert find_device("cpu") == CPU
    with pytest.raises(WorkbenchError, match="device"):
        find_device("xpu")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(WorkbenchError, match="sees no Apple GPU"):
        find_device("mps")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert find_device("mps").type == "mps"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert find_device("auto").type == "cuda"
    monkeypatch.setattr(torch.version, "hip", "7.0")
    assert find_device("auto") == CPU  # torch calls AMD's cards cuda
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert find_device("auto") == CPU


def test_expandable_segments_are_advised_on_cuda_until_they_are_set():
    assert "PYTORCH_ALLOC_CONF=expandable_segments:True" in segments_advice("cuda", {})
    for name in ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"):
        there = {name: "max_split_size_mb:64,expandable_segments:True"}
        assert segments_advice("cuda", there) == ""
        assert segments_advice("cuda", {name: "max_split_size_mb:64"})
    assert segments_advice("cpu", {}) == ""


# --- loss scaling ---------------------------------------------------------------------------------


def layer():
    made = nn.Linear(4, 1)
    with torch.no_grad():
        made.weight.copy_(torch.tensor([[0.5, -1.0, 2.0, 0.25]]))
        made.bias.zero_()
    return made


def test_a_scaled_gradient_unscaled_is_the_plain_one():
    """In fp16, a gradient of 2e-8 is 0; scaled by 65 536 and divided again it is there."""
    x, tiny = torch.tensor([[1.0, 2.0, 3.0, 4.0]]), 2e-8
    found = {}
    for scaled in (False, True):
        made = layer()
        scaler = loss_scaler(torch.float16 if scaled else torch.float32, CPU)
        optimizer = torch.optim.SGD(made.parameters(), lr=1.0)
        # The activation is fp16 and the weight fp32, as with an adapter on an fp16 base.
        loss = (made(x).half().float() * tiny).sum()
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        found[scaled] = made.weight.grad.clone()
    assert torch.count_nonzero(found[False]) == 0
    torch.testing.assert_close(found[True], tiny * x, rtol=1e-3, atol=0)


def test_only_fp16_is_scaled():
    assert loss_scaler(torch.float16, CPU).get_scale() == 65536
    for dtype in (torch.float32, torch.bfloat16):
        scaler, x = loss_scaler(dtype, CPU), torch.tensor(3.0)
        assert not scaler.is_enabled() and scaler.scale(x) is x and scaler.get_scale() == 1


def fp16_scaled(recipe):
    state = prepare(recipe)
    state.memory.scaler = loss_scaler(torch.float16, CPU)
    return state


def adapter(state):
    return torch.cat([parameter.detach().flatten() for _, parameter in state.policy.trainable()])


SAMPLES = {"beta": 0.2, "anchor": "forward_kl", "anchor_args": {"source": "samples"}}


@pytest.mark.parametrize("fields", [{}, SAMPLES], ids=["plain", "samples"])
def test_a_scale_leaves_steps_as_they_are(toy_recipe, fields):
    """A power of two: to the last bit, also where the reference's completions pull."""
    recipe = toy_recipe.replace(microbatch=5, **fields)
    states = prepare(recipe), fp16_scaled(recipe)
    for state in states:
        for _ in range(2):
            report = train_step(state, recipe)
    assert torch.equal(adapter(states[0]), adapter(states[1]))
    assert report.metrics["train/skipped"] == 0
    assert report.metrics["train/loss_scale"] == 65536
    for key in ("train/skipped", "train/loss_scale"):
        assert key in train_step.__doc__


def test_an_overflow_leaves_the_step_out_halves_the_scale_and_is_counted(toy_recipe):
    state = fp16_scaled(toy_recipe)
    state.memory.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
    before = adapter(state)
    metrics = train_step(state, toy_recipe.replace(objective=strong)).metrics
    assert torch.equal(adapter(state), before)
    assert metrics["train/skipped"] == 1 and metrics["train/grad_norm"] == 0
    assert metrics["train/loss_scale"] == 2.0**126
    assert state.step == 1 and not state.optimizer.state
    again = Memory.fresh(4)
    again.scaler = loss_scaler(torch.float16, CPU)
    again.load(state.memory.to_dict(), None)  # a checkpoint holds the scale
    assert again.scaler.get_scale() == 2.0**126
    plain = Memory.fresh(4)
    plain.load(state.memory.to_dict(), None)  # of a card that needs none
    assert not plain.scaler.is_enabled()


def strong(rewards_PG):
    return (rewards_PG - rewards_PG.mean(-1, keepdim=True)) * 1e4


def broken(rewards_PG):
    return rewards_PG * float("nan")


def test_what_no_scale_mends_still_stops_the_run(toy_recipe):
    state = fp16_scaled(toy_recipe)
    with pytest.raises(NonFiniteError, match="loss nan"):
        train_step(state, toy_recipe.replace(objective=broken))


@pytest.mark.parametrize("quantize", ["none", "nf4"])
def test_a_card_without_bf16_trains_in_fp16_with_fp32_adapters(toy_recipe, monkeypatch, quantize):
    """The facts of a T4, on the CPU's kernels."""
    monkeypatch.setattr(devices, "facts_of", lambda device: T4)
    assert compute_dtype(CPU) == torch.float16
    recipe = toy_recipe.replace(quantize=quantize, beta=0.1, learning_rate=1e-2)
    state = prepare(recipe)
    model = state.policy.model.get_base_model()
    assert model.lm_head.weight.dtype == torch.float16
    assert {p.dtype for _, p in state.policy.trainable()} == {torch.float32}
    assert {p.dtype for p in state.policy.sampler().parameters()} == {torch.float16}
    before = adapter(state)
    reports = [train_step(state, recipe) for _ in range(3)]
    moved = adapter(state)
    assert moved.isfinite().all() and not torch.equal(moved, before)
    assert state.memory.scaler.is_enabled()
    assert all(report.metrics["train/mismatch"] < 0.05 for report in reports)
    assert all(parameter.grad is None for _, parameter in state.policy.trainable())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_policy_on_the_card_computes_in_its_type(toy_world):
    policy = load_policy(toy_world, device="cuda")
    assert policy.model.get_base_model().lm_head.weight.dtype == compute_dtype(policy.device)


@pytest.mark.parametrize("quantize", ["none", "nf4"])
def test_adapters_are_fp32_on_a_bf16_base_too(toy_world, monkeypatch, quantize):
    """In bf16 a step of 1e-4 would leave a weight of 0.1 where it was."""
    monkeypatch.setattr(devices, "facts_of", lambda device: A100)
    policy = load_policy(toy_world, device="cpu", quantize=quantize)
    assert policy.model.get_base_model().lm_head.weight.dtype == torch.bfloat16
    assert {p.dtype for _, p in policy.trainable()} == {torch.float32}


def test_free_memory_is_some_of_this_machines():
    assert 2**24 < devices.free_memory(torch.device("cpu")) < 2**50
