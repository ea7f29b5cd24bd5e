"""What a run has learned, as a folder that plain transformers and peft load without this package.

Two forms, each with the tokenizer, the recipe in force at that step and the run's report:

- The adapter: adapter_model.safetensors and adapter_config.json, for
  `peft.PeftModel.from_pretrained(base, folder)`. Its config names the base: a hub name as it is, anything
  else (the shipped models too) by its absolute path on this machine. It was trained on the base as quantised,
  so on a plain base its outputs differ by that rounding, which `merged` keeps.
- Merged: a whole model for `transformers.AutoModelForCausalLM.from_pretrained(folder)`, base + update in
  plain matrices, those that rollouts were drawn from, in their type (fp32 on the CPU, bf16 on CUDA).

Only safetensors are written, no pickles.
"""

from __future__ import annotations

import copy
import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, PreTrainedModel

from workbench.folder import read_checkpoint_recipe
from workbench.loading import LOADING, quiet
from workbench.merging import plain_copy, refresh
from workbench.models import Policy
from workbench.recipe import Recipe, own_functions
from workbench.report import write_report
from workbench.sources import find_model
from workbench.tokens import load_tokenizer
from workbench.trained import checkpoint_of, trained_policy
from workbench.variants import WorkbenchError

ADAPTER_FILES = ("adapter_model.safetensors", "adapter_config.json")


def export_run(run: Any, folder: Path, *, merged: bool = False, step: int | None = None) -> Path:
    """Write what `run` (a Run) had learned at the checkpoint of `step`, by default the last, to `folder`.

    Raises:
        WorkbenchError: the folder is not empty or can't be written; there is no such checkpoint; the base is
            gone, or the merged model does not fit in memory.
    """
    folder = folder.expanduser().resolve()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise WorkbenchError(f"{folder} is not an empty folder; give one that is, or a new one.")
    checkpoint = checkpoint_of(run.folder, step)
    recipe = read_checkpoint_recipe(checkpoint, own_functions(vars(run.recipe)))
    partial = folder / ".part"  # what an error leaves behind is in here, and goes with it
    try:
        partial.mkdir(parents=True)
        if merged:
            write_merged(recipe, checkpoint, partial)
        else:
            write_adapter(recipe, checkpoint, partial)
        (partial / "recipe.yaml").write_text(recipe.to_yaml(), encoding="utf-8")
        write_report([run], partial / "report.html")
        for path in sorted(partial.iterdir()):
            os.replace(path, folder / path.name)
    except (OSError, SafetensorError) as error:
        raise WorkbenchError(
            f"The export to {folder} can't be written ({error}); give a folder on a disk with room that you "
            "may write to."
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def write_adapter(recipe: Recipe, checkpoint: Path, folder: Path) -> None:
    """Write the adapter of `checkpoint` and its tokenizer; the config names a base that can be found."""
    for name in ADAPTER_FILES:
        shutil.copyfile(checkpoint / name, folder / name)
    source = find_model(recipe.model)
    base = str(Path(source).resolve()) if Path(source).is_dir() else source
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    text = json.dumps(config | {"base_model_name_or_path": base}, indent=2)
    (folder / "adapter_config.json").write_text(text + "\n", encoding="utf-8")
    load_tokenizer(source, recipe.model).save_pretrained(folder)


def write_merged(recipe: Recipe, checkpoint: Path, folder: Path) -> None:
    """Write the whole model as the checkpoint holds it, and its tokenizer."""
    policy = trained_policy(recipe, checkpoint)
    model = plain_model(policy)
    with quiet():
        model.save_pretrained(folder)
    policy.tokenizer.save_pretrained(folder)


def plain_model(policy: Policy) -> PreTrainedModel:
    """The policy as a model of its architecture without quantisation and adapter; tensors are shared."""
    base = policy.model.get_base_model()
    try:
        twin = plain_copy(base)
        refresh(base, twin)
    except torch.OutOfMemoryError as error:
        raise WorkbenchError(
            f"The GPU's memory is too small for a merged copy of {policy.name!r}; stop what else runs on it, "
            "or export the adapter alone."
        ) from error
    config = copy.deepcopy(base.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    inputs, outputs = twin.get_input_embeddings(), twin.get_output_embeddings()
    if inputs.weight.data_ptr() != outputs.weight.data_ptr():
        config.tie_word_embeddings = False  # an update of one of them has parted the two
    with LOADING, torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    model.load_state_dict(twin.state_dict(), assign=True)
    model.tie_weights()
    model.generation_config = copy.deepcopy(base.generation_config)
    return model.eval()
