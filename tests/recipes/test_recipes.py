"""Every shipped recipe is valid, says what it is and needs, and trains down to its first step on a stand-in.

Replaced are the model (by the stand-in of its family), sizes, data (by the shipped samples) and the reward
model; and a coin joins the reward, since noise earns nothing. All else is the recipe's own.
"""

import json
import re
import shutil

import pytest
import torch
import yaml

from workbench import cli, runs
from workbench.packaged import data_path, recipe_path
from workbench.recipe import FIELDS, Recipe
from workbench.tasks.instructions import constraints_of, is_hard

from .standins import FAMILIES, family_of, talkative

FILES = sorted(data_path("recipes").glob("*.yaml"))
NAMES = [path.stem for path in FILES]
PAPERS = [path for path in FILES if path.stem.startswith("paper-")]
MARKS = re.compile(r"published|borrowed|derived|guessed|ours")


def coin(rollouts, task):
    """1 where a completion's first token has an even number."""
    even_B = (rollouts.completion_ids_BT[:, 0] % 2 == 0).float()
    return even_B.view(rollouts.P, rollouts.G)


def sample_rows(task):
    lines = data_path("tasks", f"{task}.sample.jsonl").read_text("utf-8").splitlines()
    return [json.loads(line) for line in lines]


def only_hard(row):
    """The row with those of its constraints that rules can check."""
    kept = [i for i, one in enumerate(constraints_of(row)) if is_hard(one.kind)]
    lists = ("instruction_id_list", "kwargs", "constraint")
    return row | {column: [row[column][i] for i in kept] for column in lists}


def shipped_data(recipe, folder):
    """The recipe's task_args with the shipped sample in the place of its source."""
    given = {key: value for key, value in recipe.task_args.items() if key != "eval_share"}
    if "source" not in given:
        return given
    without = {key: value for key, value in given.items() if key not in ("source", "subset")}
    if recipe.task in ("gsm8k", "math"):
        return without  # their default is the sample
    rows = sample_rows(recipe.task)
    if recipe.task == "jsonl":
        wanted = (without.get("prompt_column", "prompt"), without.get("answer_column", "answer"))
        rows = [dict(zip(wanted, (row["prompt"], row["answer"]), strict=True)) for row in rows]
    if given.get("checked"):
        rows = [row for row in map(only_hard, rows) if row["constraint"]]
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return without | {"source": str(file)}


def scaled_down(recipe, model, judge, folder, prompts=2):
    """The recipe as it is trained here: everything small, and nothing from a network."""
    arguments = {name: dict(given) for name, given in recipe.reward_args.items()}
    if "learned" in arguments:
        arguments["learned"]["reward_model"] = judge
    few = {
        "prompts_per_step": prompts,
        "group_size": 2 * prompts,
        "minibatches": min(recipe.minibatches, 2),
        "max_new_tokens": 12,
        "steps": 1,
        "eval_prompts": 2,
        "eval_samples": 2,
        "cross_samples": min(recipe.cross_samples, 1),
        "probe_every": min(recipe.probe_every, 1),
        "probe_prompts": 2,
        "probe_samples": 2,
        "rollouts_every": 1,
        "checkpoint_every": 1,
        "device": "cpu",
    }
    rewards = {name: 0.0 if name == "correct" else w for name, w in recipe.rewards.items()}
    return recipe.replace(
        model=model,
        task_args=shipped_data(recipe, folder),
        rewards=rewards | {coin: 1.0},
        reward_args=arguments,
        **few,
    )


def spoken(recipe, family):
    """A token without which this recipe has nothing to train on; "" where there is none."""
    if recipe.separation != "joint":
        return "</think>"
    judged = "constraints" in recipe.rewards and not recipe.task_args.get("checked")
    whole = judged or recipe.truncated == "lowest"  # only whole answers count
    return FAMILIES[family].ends[0] if whole else ""


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_it_trains_down_to_its_first_step(path, standin, judge, tmp_path):
    recipe = Recipe.from_yaml(path.read_text("utf-8"))
    family = family_of(recipe.model)
    model = standin(family)
    said = spoken(recipe, family)
    if said:
        model = shutil.copytree(model, tmp_path / "model")
        talkative(model, said)
    small = scaled_down(recipe, str(model), judge, tmp_path, prompts=4 if said else 2)
    assert small.quantize == recipe.quantize
    run = runs.train(small, folder=tmp_path / "run").wait()
    first = run.metrics.loc[1]
    assert first["train/grad_norm"] > 0
    assert first["train/mismatch"] < 1e-4
    assert torch.isfinite(torch.tensor(first["train/loss"]))
    policy = run.policy()
    moved = [name for name, p in policy.trainable() if "lora_B" in name and bool((p != 0).any())]
    assert moved


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_it_begins_with_what_it_is_and_needs_and_is_named_as_its_file(path):
    lines = path.read_text("utf-8").splitlines()
    head = lines[: lines.index(f"name: {path.stem}")]
    assert 3 <= len(head) <= 8 and all(line.startswith("# ") for line in head)
    text = " ".join(line[2:] for line in head)
    assert "Data: " in text and "Needs: " in text
    recipe = Recipe.from_yaml(path.read_text("utf-8"))
    assert recipe.title() == path.stem
    assert recipe_path(path.stem) == path and cli.read_recipe(path.stem) == recipe
    assert Recipe.from_yaml(recipe.to_yaml()) == recipe


@pytest.mark.parametrize("path", PAPERS, ids=lambda path: path.stem)
def test_every_value_of_a_papers_recipe_is_marked_as_published_or_not(path):
    lines = path.read_text("utf-8").splitlines()
    ours = next(n for n, line in enumerate(lines) if "ours, as all below" in line)
    values = [line for line in lines[:ours] if not line.lstrip().startswith("#")]
    for line in values:
        key, _, value = line.strip().partition(":")
        if key in ("name", "task") or not value.strip():
            continue  # the task follows from its data; of a mapping each part is marked
        assert MARKS.search(line.partition("#")[2]), line
    known = {line.split(":")[0] for line in lines if line[:1].isalpha()}
    assert known == set(yaml.safe_load("\n".join(lines))) <= set(FIELDS)


def test_the_families_papers_and_tasks_asked_for_are_there():
    recipes = {path.stem: Recipe.from_yaml(path.read_text("utf-8")) for path in FILES}
    for task in ("gsm8k", "math"):
        models = {recipe.model for recipe in recipes.values() if recipe.task == task}
        assert models >= {
            "Qwen/Qwen2.5-0.5B-Instruct",
            "Qwen/Qwen2.5-1.5B-Instruct",
            "Qwen/Qwen3-0.6B",
            "Qwen/Qwen3-1.7B",
        }
    assert {recipe.task for recipe in recipes.values()} >= {
        "countdown",
        "instructions",
        "questions",
    }
    assert len(PAPERS) == 6  # five papers, one of them with its parent
