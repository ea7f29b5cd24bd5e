"""A copy of the policy from a checkpoint: the run's weights, and nothing shared with it."""

import pytest
import torch

from workbench import runs
from workbench.trained import trained_policy
from workbench.trainer import prepare
from workbench.variants import WorkbenchError


def test_a_run_gives_a_copy_of_its_policy_at_any_checkpoint(toy_recipe, tmp_path):
    run = runs.train(toy_recipe.replace(steps=4), folder=tmp_path / "run").wait()
    first, last = run.policy(2), run.policy()
    assert run.checkpoint_steps[-1] == 4
    fresh = prepare(toy_recipe).policy.state()
    states = [first.state(), last.state(), fresh]
    moved = [name for name in fresh if "lora_B" in name]
    for one, two in ((0, 1), (1, 2), (0, 2)):
        assert any(not torch.equal(states[one][name], states[two][name]) for name in moved)
    again = run.policy(4)
    assert all(torch.equal(value, states[1][name]) for name, value in again.state().items())
    with pytest.raises(WorkbenchError, match="Unknown checkpoint '?3'?.*allowed: 2, 4"):
        run.policy(3)


def test_a_damaged_checkpoint_says_so(toy_recipe, tmp_path):
    run = runs.train(toy_recipe.replace(steps=2), folder=tmp_path / "run").wait()
    file = run.path / "checkpoints" / "000002" / "adapter_model.safetensors"
    file.write_bytes(b"\xff" * file.stat().st_size)
    with pytest.raises(WorkbenchError, match="Checkpoint 000002 can't be read.*another step"):
        trained_policy(run.recipe, file.parent)
