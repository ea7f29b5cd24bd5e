"""Where a model's name leads, and what is refused before anything of it is loaded.

A name is a shipped one, a folder, or a name on the hub. Only safetensors are read and remote code is never
run. A policy writes text and a reward model scores it; each is refused in the other's place.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from workbench.packaged import SHIPPED_JUDGES, data_path
from workbench.variants import WorkbenchError, unknown

# The kinds, as messages call them; the last two score texts.
POLICY, JUDGE, CONSTRAINT_MODEL = "model", "reward model", "constraint reward model"
SCORES = (JUDGE, CONSTRAINT_MODEL)


def find_model(name: str, kind: str = POLICY) -> str:
    """The folder of a shipped or local model, or `name` itself when it is a hub name."""
    folder = Path(name).expanduser()
    if name and folder.is_dir():
        return str(folder)
    everything = _shipped_models()
    if name in everything:
        return str(everything[name])
    shipped = [found for found in everything if (found in SHIPPED_JUDGES) == (kind == JUDGE)]
    if re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name):
        return name
    if "/" in name or "\\" in name:
        raise WorkbenchError(f"There is no model folder {name!r}; check the path.")
    if kind == CONSTRAINT_MODEL:
        raise WorkbenchError(
            f"There is no {kind} {name!r}; give 'own', the folder of a trained one, or a hub name such as "
            "owner/name."
        )
    message = unknown(kind, name, shipped)
    raise WorkbenchError(f"{message} Or give a folder, or a hub name such as owner/name.")


def check_loadable(source: str, name: str, kind: str = POLICY) -> None:
    """Refuse, before anything is loaded, what needs pickled weights or somebody's code, or is no `kind`."""
    try:
        config, _ = PreTrainedConfig.get_config_dict(source)
    except (OSError, ValueError) as error:
        raise WorkbenchError(cannot_read(source, name)) from error
    if not config:
        raise WorkbenchError(cannot_read(source, name))
    architecture = config.get("model_type")
    if architecture not in CONFIG_MAPPING:
        if "auto_map" in config:
            raise WorkbenchError(_needs_code(name))
        raise WorkbenchError(
            f"The model {name!r} has the architecture {architecture!r}, which the installed transformers "
            "does not know; choose another model or upgrade transformers."
        )
    if Path(source).is_dir() and not any(Path(source).glob("*.safetensors")):
        raise WorkbenchError(no_safetensors(name))
    _check_kind(config, name, kind)


def _check_kind(config: dict[str, Any], name: str, kind: str) -> None:
    classes = config.get("architectures") or []
    scores = any(each.endswith("ForSequenceClassification") for each in classes)
    if kind == POLICY and scores:
        raise WorkbenchError(
            f"The model {name!r} is a classifier, which scores texts and writes none; train a policy such as "
            f"guide-strong, and give this one to the reward 'learned': reward_model={name!r}."
        )
    if kind in SCORES and not scores and "auto_map" in config:  # such as ArmoRM
        raise WorkbenchError(_needs_code(name))
    if kind in SCORES and not scores:
        such = " such as reward-shortcut" if kind == JUDGE else ""
        raise WorkbenchError(
            f"The model {name!r} is no sequence classifier ({', '.join(classes) or 'unnamed'}), so it can't "
            f"score answers; give a {kind}{such}."
        )


def _shipped_models() -> dict[str, Path]:
    try:
        folders = sorted(data_path("models").iterdir())
    except WorkbenchError:
        return {}
    return {folder.name: folder for folder in folders if (folder / "config.json").is_file()}


def _needs_code(name: str) -> str:
    return (
        f"The model {name!r} needs its own Python code, which is never run here; "
        "choose a model whose architecture transformers has built in."
    )


def no_safetensors(name: str) -> str:
    """What to say of a model without safetensors."""
    return (
        f"The model {name!r} has no safetensors weights, and pickled ones are never opened; "
        "where you trust it, load it with transformers and save_pretrained() it to a folder."
    )


def cannot_read(source: str, name: str) -> str:
    """What to say of a model that is not there, or not whole."""
    if Path(source).is_dir():
        return f"The folder {name!r} holds no readable model; it needs config.json and safetensors."
    return (
        f"The model {name!r} could not be fetched from the Hugging Face hub; check the name, the "
        "network and (for a gated model) your token, or give a local folder."
    )
