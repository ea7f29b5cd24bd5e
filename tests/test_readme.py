"""README tells the truth: its files exist, its code is valid, its commands are there."""

import ast
import re
import types
from pathlib import Path

import pytest

import workbench as wb
from workbench.cli import build_parser

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def tree_paths():
    """Every path that the annotated file tree names."""
    (tree,) = blocks("text")
    folders, found = {}, []
    for line in tree.splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        names = re.split(r"\s{2,}", line.strip())
        # The first line lists several files; in the others what follows the name is a remark.
        several = depth == 0 and all("." in name or name == "LICENSE" for name in names)
        for name in names if several else names[:1]:
            parents = [folders[level] for level in range(depth)]
            found.append("/".join([*parents, name.rstrip("/")]))
            if name.endswith("/"):
                folders[depth] = name.rstrip("/")
    return found


def test_the_file_tree_names_what_exists():
    missing = [path for path in tree_paths() if not (ROOT / path).exists()]
    assert not missing


def test_the_file_tree_names_every_module_and_notebook():
    files = [*(ROOT / "workbench").rglob("*.py"), *(ROOT / "notebooks").glob("*.ipynb")]
    there = {path.relative_to(ROOT).as_posix() for path in files}
    assert there - set(tree_paths()) == set()


@pytest.mark.parametrize("code", blocks("python"), ids=lambda code: code.split("\n")[0])
def test_python_blocks_use_public_names_and_valid_recipes(code):
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "wb":
            assert node.attr in wb.__all__
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "wb.Recipe":
            wb.Recipe(**{word.arg: ast.literal_eval(word.value) for word in node.keywords})


def test_the_example_reward_is_one():
    import torch

    scope = {}
    exec(blocks("python")[1], scope)
    rollouts = types.SimpleNamespace(lengths_B=torch.tensor([20, 21, 3, 64]), P=2, G=2)
    assert scope["short"](rollouts, task=None).tolist() == [[1.0, 0.0], [1.0, 0.0]]


@pytest.mark.parametrize("text", blocks("yaml"))
def test_yaml_blocks_are_recipes(text):
    assert wb.Recipe.from_yaml(text).make_task()


def test_the_table_of_commands_is_complete():
    (actions,) = [a for a in build_parser()._actions if a.choices and "demo" in a.choices]
    named = set(re.findall(r"^\| `workbench (\w+)", README, re.MULTILINE))
    assert named == set(actions.choices)


def test_the_example_is_four_lines():
    assert len([line for line in blocks("python")[0].splitlines() if line]) == 4
