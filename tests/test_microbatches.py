"""Plans by hand, halving by an injected lack of memory, and gradients that are whole or not there."""

import weakref
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from workbench import anchoring, microbatches, trainer
from workbench.memory import Memory
from workbench.microbatches import Kept, Sizes, add_gradient, in_parts, is_out_of_memory, plan
from workbench.recipe import Recipe
from workbench.runs import train
from workbench.trainer import prepare, train_step
from workbench.variants import WorkbenchError

LONG_PROMPTS = Sizes([0, 0, 1, 1], [90, 90, 90, 90], [10, 2, 10, 2])
SHORT_PROMPTS = Sizes([0, 0, 1, 1], [3, 3, 3, 3], [50, 4, 50, 4])


def test_tokens_count_a_prompt_once_and_padding_too():
    sizes = Sizes([0, 0, 1], [5, 5, 3], [2, 4, 1])
    assert sizes.tokens([0, 1, 2]) == 2 * 5 + 3 * 4
    assert sizes.tokens([2]) == 3 + 1


def test_rows_of_a_prompt_stay_together_where_prompts_are_long():
    """90 + 2 * 10 a group; sorted by length it would be two prompts in each part."""
    assert plan(range(4), LONG_PROMPTS, 256, 200) == [[0, 1], [2, 3]]


def test_rows_are_sorted_by_length_where_completions_are_long():
    """3 + 3 + 2 * 50 and 3 + 3 + 2 * 4, against 3 + 2 * 50 twice."""
    assert plan(range(4), SHORT_PROMPTS, 256, 106) == [[0, 2], [1, 3]]


@pytest.mark.parametrize(("most_rows", "most_tokens"), [(3, 10**6), (256, 60), (256, 1), (2, 40)])
def test_every_row_is_in_one_part_and_no_part_is_too_large(most_rows, most_tokens):
    random = np.random.default_rng(0)
    sizes = Sizes([row // 4 for row in range(24)], [7] * 24, random.integers(1, 40, 24).tolist())
    rows = [row for row in range(24) if row % 5]
    parts = plan(rows, sizes, most_rows, most_tokens)
    assert sorted(row for part in parts for row in part) == rows
    for part in parts:
        assert len(part) <= most_rows
        assert sizes.tokens(part) <= most_tokens or len(part) == 1


def batch(lengths=(6, 5, 4, 3, 2, 1), group=2, prompt=3):
    """Rollouts as far as the splitting looks at them."""
    rows = len(lengths)
    return SimpleNamespace(
        B=rows,
        G=group,
        lengths_B=torch.tensor(lengths),
        mask_BT=torch.arange(max(lengths)) < torch.tensor(lengths)[:, None],
        prompt_mask_PL=torch.ones(rows // group, prompt, dtype=torch.bool),
    )


class Scarce:
    """Work that needs a token's memory for each token, and says what it was given."""

    def __init__(self, rollouts, room, error=torch.OutOfMemoryError):
        self.sizes, self.room, self.error = Sizes.of(rollouts), room, error
        self.done, self.failed = [], []

    def __call__(self, rows_N):
        rows = rows_N.tolist()
        if self.sizes.tokens(rows) > self.room:
            self.failed.append(rows)
            raise self.error("CUDA out of memory. Tried to allocate 2.00 GiB")
        self.done.append(rows)
        return len(rows)


def test_without_a_limit_parts_are_the_next_rows_in_order():
    rollouts, memory = batch(), Memory.fresh(2)
    work = Scarce(rollouts, 10**6)
    found = in_parts(
        work, torch.tensor([5, 0, 3, 1]), rollouts, nn.Module(), Recipe(microbatch=3), memory
    )
    assert work.done == [[5, 0, 3], [1]]
    assert [(rows.tolist(), result) for rows, result in found] == [([5, 0, 3], 3), ([1], 1)]
    assert (memory.token_limit, memory.retries) == (0, 0)
    empty = torch.tensor([], dtype=torch.long)
    assert in_parts(work, empty, rollouts, nn.Module(), Recipe(), memory) == []


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, RuntimeError, MemoryError])
def test_out_of_memory_halves_retries_and_is_remembered(error):
    """Six rows of 3 * 3 + 6 * 6 = 45 tokens; room for 20: 45 -> 22 -> 11."""
    rollouts, memory = batch(), Memory.fresh(2)
    work = Scarce(rollouts, 20, error)
    in_parts(work, torch.arange(6), rollouts, nn.Module(), Recipe(), memory)
    assert work.failed[0] == [0, 1, 2, 3, 4, 5]
    assert memory.retries == len(work.failed) >= 1
    assert memory.token_limit == work.sizes.tokens(work.failed[-1]) // 2
    assert sorted(row for part in work.done for row in part) == list(range(6))
    # The rest of the run begins with the smaller limit, and so does one that goes on from a checkpoint.
    again = Memory.fresh(2)
    again.load(memory.to_dict(), None)
    later = Scarce(rollouts, 20)
    in_parts(later, torch.arange(6), rollouts, nn.Module(), Recipe(), again)
    assert later.failed == [] and again.token_limit == memory.token_limit


def test_a_row_that_does_not_fit_by_itself_is_one_clear_sentence():
    rollouts = batch()
    with pytest.raises(WorkbenchError, match=r"one completion of 9 tokens.*gradient_checkpointing"):
        in_parts(
            Scarce(rollouts, 5), torch.arange(6), rollouts, nn.Module(), Recipe(), Memory.fresh(2)
        )


def test_other_errors_are_not_tried_again():
    rollouts, calls = batch(), []

    def broken(rows_N):
        calls.append(rows_N)
        raise RuntimeError("sizes do not match")

    with pytest.raises(RuntimeError, match="sizes do not match"):
        in_parts(broken, torch.arange(6), rollouts, nn.Module(), Recipe(), Memory.fresh(2))
    assert len(calls) == 1
    assert not is_out_of_memory(ValueError("no"))
    assert is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory"))


def test_nothing_of_a_failed_part_is_held_while_the_rest_is_tried_again(monkeypatch):
    rollouts, alive, held = batch(), [], []

    def work(rows_N):
        tensor = torch.ones(len(rows_N))
        if len(rows_N) == 6:
            alive.append(weakref.ref(tensor))
            raise torch.OutOfMemoryError("full")

    monkeypatch.setattr(microbatches, "release", lambda device: held.append(alive[0]() is not None))
    in_parts(work, torch.arange(6), rollouts, nn.Module(), Recipe(), Memory.fresh(2))
    assert held == [False]


def test_on_a_gpu_the_first_part_shows_what_a_token_takes(monkeypatch):
    """40 bytes a token are kept and 3 000 are free: SHARE * 3 000 / 40 = 30 tokens."""
    rollouts, memory = batch(), Memory.fresh(2)
    monkeypatch.setattr(microbatches, "free_bytes", lambda device: 3000)
    monkeypatch.setattr(microbatches, "FIRST_TOKENS", 15)
    sizes, model, seen = Sizes.of(rollouts), nn.Linear(1, 1), []

    def work(rows_N):
        rows = rows_N.tolist()
        seen.append(sizes.tokens(rows))
        if torch.is_grad_enabled():
            (torch.ones(10 * seen[-1], requires_grad=True) ** 2).sum().backward()

    with torch.no_grad():  # keeps nothing and shows nothing
        in_parts(work, torch.arange(6), rollouts, model, Recipe(), memory)
    assert memory.token_limit == 0 and max(seen) <= 15
    in_parts(work, torch.arange(6), rollouts, model, Recipe(), memory)
    assert memory.token_limit == 30 == microbatches.SHARE * 3000 / 40
    assert 15 < max(seen) <= 30
    fixed = Memory.fresh(2)
    in_parts(work, torch.arange(6), rollouts, model, Recipe(microbatch_tokens=20), fixed)
    assert fixed.token_limit == 0  # the recipe has chosen


def test_kept_counts_each_storage_once_and_no_weights():
    layer = nn.Linear(8, 8)
    x = torch.randn(5, 8, requires_grad=True)
    with Kept(layer) as kept:
        y = layer(x)
        (y.exp() * y.view(8, 5).T.reshape(5, 8)).sum()
    # x for the weight; exp keeps its result; the product keeps that again and a copy of y.
    assert kept.bytes == 3 * x.nbytes
    with Kept(layer) as none, torch.no_grad():
        layer(x).exp()
    assert none.bytes == 0


class Fails(torch.autograd.Function):
    """The identity, for the gradient of which memory does not suffice."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        raise torch.OutOfMemoryError("CUDA out of memory.")


def test_a_failed_backward_leaves_no_half_gradient():
    model = nn.Linear(2, 1)
    (model(torch.ones(1, 2)).sum()).backward()
    before = [p.grad.clone() for p in model.parameters()]

    # The bias's gradient is there before the weight's branch fails.
    loss = (model.bias * 2).sum() + Fails.apply(model.weight * 3).sum()
    with pytest.raises(torch.OutOfMemoryError):
        add_gradient(model, loss)
    assert all(torch.equal(p.grad, old) for p, old in zip(model.parameters(), before, strict=True))
    add_gradient(model, (model.bias * 2).sum())
    assert torch.equal(model.bias.grad, before[1] + 2)
    assert torch.equal(model.weight.grad, before[0])


def test_gradients_add_up_as_backward_adds_them():
    torch.manual_seed(0)
    found = []
    for add in (add_gradient, lambda model, loss: loss.backward()):
        model = nn.Linear(7, 3)
        with torch.no_grad():
            for p in model.parameters():
                p.copy_(torch.linspace(-1, 1, p.numel()).view_as(p))
        for seed in range(4):
            x = torch.randn(5, 7, generator=torch.Generator().manual_seed(seed))
            add(model, model(x).square().sum())
        found.append([p.grad for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


# --- in a step ----------------------------------------------------------------------------------


def gradients(state):
    return torch.cat([parameter.grad.flatten() for _, parameter in state.policy.trainable()])


def scarce_read(read, room, where, seen):
    """`read` for which memory gives out beyond `room` tokens: in the forward or in the backward pass."""

    def limited(policy, rollouts, indices=None):
        tokens = Sizes.of(rollouts).tokens(indices.tolist())
        seen.append(tokens)
        if tokens <= room:
            return read(policy, rollouts, indices)
        if where == "forward" or not torch.is_grad_enabled():
            raise torch.OutOfMemoryError("CUDA out of memory.")
        # The gradient of the lowest layer comes last: others have been added by then.
        _, lowest = policy.trainable()[0]

        def fail(grad):
            hook.remove()
            raise torch.OutOfMemoryError("CUDA out of memory.")

        hook = lowest.register_hook(fail)
        return read(policy, rollouts, indices)

    return limited


CASES = [
    {},
    {"aggregation": "token_mean", "surrogate": "ppo_clip"},
    {"beta": 0.5, "anchor_args": {"estimator": "exact"}},
    {"beta": 0.5, "anchor_args": {"estimator": "exact", "place": "reward"}},
    {"beta": 0.5, "anchor": "forward_kl", "anchor_args": {"source": "samples"}},
]


@pytest.mark.parametrize("where", ["forward", "backward"])
@pytest.mark.parametrize("fields", CASES, ids=str)
def test_a_step_that_runs_out_of_memory_has_the_gradient_of_one_that_does_not(
    toy_recipe, monkeypatch, fields, where
):
    def keep(state, recipe, report, sums):
        sums["updates"] += 1

    monkeypatch.setattr(trainer, "clip_and_step", keep)
    found, shown = [], []
    for room in (10**9, 60):
        recipe = toy_recipe.replace(**fields)
        state = prepare(recipe)
        with torch.no_grad():
            generator = torch.Generator().manual_seed(1)
            for _, parameter in state.policy.trainable():
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
        seen = []
        with monkeypatch.context() as patch:
            for module in (trainer, anchoring):
                patch.setattr(module, "read", scarce_read(module.read, room, where, seen))
            report = train_step(state, recipe)
        found.append(gradients(state))
        shown.append(report.metrics)
    torch.testing.assert_close(found[1], found[0], atol=1e-6, rtol=1e-4)
    assert found[0].abs().max() > 1e-3
    assert state.memory.retries > 0 and state.memory.token_limit > 0
    assert shown[1]["train/tokens_at_once"] == state.memory.token_limit
    assert "train/tokens_at_once" not in shown[0]
    for name in ("train/loss", "train/anchor_loss", "train/mismatch"):
        assert shown[1][name] == pytest.approx(shown[0][name], abs=1e-5)


@pytest.mark.parametrize("tokens", [1, 40, 200])
def test_a_token_limit_leaves_the_gradient_unchanged(toy_recipe, monkeypatch, tokens):
    monkeypatch.setattr(trainer, "clip_and_step", lambda *given: None)
    found = []
    for most in (0, tokens):
        recipe = toy_recipe.replace(microbatch_tokens=most, beta=0.1)
        state = prepare(recipe)
        train_step(state, recipe)
        found.append(gradients(state))
    torch.testing.assert_close(found[1], found[0], atol=1e-6, rtol=1e-4)


def test_a_run_says_once_that_memory_gave_out_and_goes_on(toy_recipe, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(trainer, "read", scarce_read(trainer.read, 60, "backward", seen))
    run = train(toy_recipe.replace(steps=3), folder=tmp_path / "a", blocking=True)
    assert run.status == "finished"
    events = run.events[run.events["kind"] == "memory"]
    assert len(events) == 1
    limit = int(run.metrics["train/tokens_at_once"].iloc[-1])
    assert events["text"].iloc[0] == f"out of memory: at most {limit} tokens at once from here on"
    assert max(seen[-3:]) <= 60 < max(seen)
