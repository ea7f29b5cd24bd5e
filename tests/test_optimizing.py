"""The two optimisers: against AdamW, and their state to disk and back."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from workbench import runs
from workbench.folder import restore
from workbench.optimizing import load_optimizer, make_optimizer, optimizer_tensors
from workbench.trainer import prepare
from workbench.variants import WorkbenchError

KINDS = ["adamw", "adamw8bit"]
GPU = pytest.param(
    "cuda",
    marks=[
        pytest.mark.gpu,
        pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    ],
)


def problem(device="cpu"):
    """A large and a small matrix: one gets 8-bit moments, the other stays in fp32."""
    generator = torch.Generator().manual_seed(0)
    shapes = {"large": (96, 64), "small": (10,)}
    return [
        (name, nn.Parameter(torch.randn(shape, generator=generator).to(device)))
        for name, shape in shapes.items()
    ]


def descend(named, optimizer, steps, seed=1):
    """Steps along gradients that do not depend on the optimiser."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        for _, parameter in named:
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.grad = parameter.detach() + noise.to(parameter.device)
        optimizer.step()


def made(kind, named):
    return make_optimizer(kind, named, rate=1e-2, weight_decay=0.1)


@pytest.mark.parametrize("device", ["cpu", GPU])
def test_eight_bits_go_where_adamw_goes(device):
    paths = []
    for kind in KINDS:
        named = problem(device)
        start = [p.detach().clone() for _, p in named]
        descend(named, made(kind, named), 20)
        paths.append([p.detach() - old for (_, p), old in zip(named, start, strict=True)])
    large, small = zip(*paths, strict=True)
    torch.testing.assert_close(small[1], small[0], atol=1e-5, rtol=1e-4)  # fp32 in both
    gap = (large[1] - large[0]).norm() / large[0].norm()
    assert 0 < gap < 0.05


@pytest.mark.parametrize("device", ["cpu", GPU])
def test_eight_bits_take_a_quarter_of_the_room(device):
    sizes = []
    for kind in KINDS:
        named = problem(device)[:1]
        optimizer = made(kind, named)
        descend(named, optimizer, 1)
        sizes.append(sum(t.nbytes for t in optimizer_tensors(optimizer, named).values()))
    assert sizes[0] == 2 * 4 * 96 * 64 + 4
    assert sizes[1] == 2 * 96 * 64 + 2 * 4 * 96 * 64 // 256 + 8


@pytest.mark.parametrize("device", ["cpu", GPU])
@pytest.mark.parametrize("kind", KINDS)
def test_the_state_survives_the_disk_bit_for_bit(kind, device, tmp_path):
    named = problem(device)
    optimizer = made(kind, named)
    descend(named, optimizer, 3)
    save_file(optimizer_tensors(optimizer, named), tmp_path / "a.safetensors")
    kept = {name: parameter.detach().clone() for name, parameter in named}
    descend(named, optimizer, 3, seed=2)

    again = [(name, nn.Parameter(kept[name])) for name, _ in named]
    resumed = made(kind, again)
    load_optimizer(resumed, again, load_file(tmp_path / "a.safetensors"))
    descend(again, resumed, 3, seed=2)
    for (_, mine), (_, wanted) in zip(again, named, strict=True):
        assert torch.equal(mine, wanted)


def test_the_state_of_another_optimiser_is_refused():
    for kind, other in (KINDS, KINDS[::-1]):
        named = problem()
        optimizer = made(kind, named)
        descend(named, optimizer, 1)
        tensors = optimizer_tensors(optimizer, named)
        with pytest.raises(WorkbenchError, match="keep the recipe's optimizer"):
            load_optimizer(made(other, named), named, tensors)


def test_other_devices_have_no_eight_bit_kernels():
    named = [("a", nn.Parameter(torch.empty(3, device="meta")))]
    with pytest.raises(WorkbenchError, match="no kernels for 'meta'; set it to 'adamw'"):
        made("adamw8bit", named)


def test_a_run_in_eight_bits_resumes_forks_and_rewinds(toy_recipe, tmp_path):
    recipe = toy_recipe.replace(optimizer="adamw8bit", lora_rank=64, steps=4)
    whole = runs.train(recipe, folder=tmp_path / "whole", blocking=True)
    half = runs.train(recipe.replace(steps=2), folder=tmp_path / "half", blocking=True)
    half.update(steps=4)
    half.resume()
    half.wait()

    def weights(run):
        return load_file(run.folder.checkpoints()[-1] / "adapter_model.safetensors")

    wanted = weights(whole)
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in weights(half).items())
    kept = load_file(whole.folder.checkpoints()[-1] / "optimizer.safetensors")
    assert any(tensor.dtype == torch.uint8 for tensor in kept.values())
    # A fork and a rewound run begin with `restore`.
    state = prepare(recipe)
    restore(state, whole.folder.checkpoints()[0])
    assert state.step == 2
    found = optimizer_tensors(state.optimizer, state.policy.trainable())
    held = load_file(whole.folder.checkpoints()[0] / "optimizer.safetensors")
    assert found.keys() == held.keys()
    assert all(torch.equal(found[name], held[name]) for name in held)
