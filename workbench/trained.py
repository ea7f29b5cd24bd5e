"""The policy as a checkpoint holds it, for use beside the run: nothing is shared with the run's own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError
from safetensors.torch import load_file

from workbench.models import Policy, load_policy
from workbench.recipe import Recipe
from workbench.variants import WorkbenchError, lookup

if TYPE_CHECKING:
    from workbench.folder import RunFolder


def checkpoint_of(folder: RunFolder, step: int | None) -> Path:
    """The checkpoint of `step` in a run's folder, by default the last one."""
    found = {int(path.name): path for path in folder.checkpoints()}
    if not found:
        raise WorkbenchError(
            f"{folder.path.name} has no checkpoint yet; pause it, which writes one, or wait for one."
        )
    return lookup(found, "checkpoint", max(found) if step is None else step)


def trained_policy(recipe: Recipe, checkpoint: Path) -> Policy:
    """The recipe's model with the adapter of `checkpoint`, a folder that a run of it wrote."""
    policy = load_policy(
        recipe.model,
        quantize=recipe.quantize,
        lora_rank=recipe.lora_rank,
        lora_alpha=recipe.lora_alpha,
        lora_targets=recipe.lora_targets,
        device=recipe.device,
        merged=recipe.merged,
        engine=recipe.engine,
        thinking=recipe.thinking,
        think_tags=recipe.think_tags,
        stop=recipe.stop,
    )
    try:
        policy.load_state(load_file(checkpoint / "adapter_model.safetensors"))
    except (SafetensorError, OSError) as error:
        raise WorkbenchError(
            f"Checkpoint {checkpoint.name} can't be read ({error}); choose another step."
        ) from error
    policy.refresh_sampler()
    return policy
