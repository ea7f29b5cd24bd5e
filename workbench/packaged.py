"""Where the shipped files are: in the checkout, or inside the installed package."""

from __future__ import annotations

from pathlib import Path

from workbench.variants import WorkbenchError, unknown

PACKAGE = Path(__file__).resolve().parent
SHIPPED_POLICIES = ("tiny-strong", "tiny-weak", "guide-strong", "guide-weak", "scribe")
SHIPPED_JUDGES = ("reward-shortcut", "reward-fair")
SHIPPED_MODELS = SHIPPED_POLICIES + SHIPPED_JUDGES


def in_checkout() -> bool:
    """True when the package runs from its own repository (``pip install -e .``)."""
    return (PACKAGE.parent / "pyproject.toml").is_file() and (PACKAGE.parent / "data").is_dir()


def data_path(*parts: str) -> Path:
    """The path of a shipped file or folder under ``data/``, such as ``data_path("models")``."""
    return _shipped("data", "_data", parts)


def notebooks_path(*parts: str) -> Path:
    """The path of a shipped notebook, or of their folder."""
    return _shipped("notebooks", "_notebooks", parts)


def recipe_path(name: str) -> Path:
    """The file of a recipe: a path as it is, or that of a shipped one, such as ``gsm8k-qwen2.5-0.5b``."""
    path = Path(name).expanduser()
    if path.is_file() or path.suffix in (".yaml", ".yml") or len(path.parts) != 1:
        return path
    shipped = {file.stem: file for file in sorted(data_path("recipes").glob("*.yaml"))}
    if name not in shipped:
        raise WorkbenchError(f"{unknown('recipe', name, shipped)} Or give a YAML file.")
    return shipped[name]


def _shipped(checkout_name: str, wheel_name: str, parts: tuple[str, ...]) -> Path:
    base = PACKAGE.parent / checkout_name if in_checkout() else PACKAGE / wheel_name
    path = base.joinpath(*parts)
    if not path.exists():
        raise WorkbenchError(
            f"The shipped file {'/'.join((checkout_name, *parts))} is missing; "
            "install the package again."
        )
    return path
