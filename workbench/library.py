"""The folders of runs on the disk: make one, find them, look at one in passing, tag, rename and delete."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench.folder import RunFolder, replace_text
from workbench.recipe import Recipe
from workbench.variants import WorkbenchError, unknown

HERE: dict[Path, Any] = {}  # runs that have had a thread in this process, by folder
ABOUT = "about.json"  # what a person says of the run: its tags
MARKS = (
    "recipe.yaml",
    "metrics.jsonl",
    "status.json",
)  # a folder with one of them is meant as a run's
OWN_FILES = (*MARKS, "events.jsonl", "error.txt", ABOUT, "report.html")
TABLES = ("rollouts", "held_out", "probes")  # folders of Parquet files
MODELS = ("checkpoints", "constraint_models")  # folders of folders, named by their step
MODEL_FILES = ("vocab.txt", "merges.txt", "README.md")
MODEL_ENDINGS = (".safetensors", ".json", ".jinja", ".model")
TRACKED = ("tensorboard", "wandb")  # a tracker's, whatever it puts there
REWOUND = "rewound"  # its folders hold parts of a run that it went back from
NAMED_AT_MOST = 5  # foreign files in a message


# ------------------------------------------------------------------ making and finding


def runs_root() -> Path:
    """The folder below which runs are kept unless told otherwise."""
    return Path(os.environ.get("WORKBENCH_RUNS", "runs"))


def new_folder(recipe: Recipe, folder: str | os.PathLike[str] | None) -> RunFolder:
    """Make the folder of a new run, with its recipe in it."""
    if folder is None:
        root = runs_root()
        short = re.sub(r"[^a-z0-9]+", "-", recipe.title().lower()).strip("-")[:40]
        stem = f"{time.strftime('%Y%m%d-%H%M%S')}-{short or 'run'}"
        names = (stem, *(f"{stem}-{number}" for number in range(2, 1000)))
        path = next(root / name for name in names if not (root / name).exists())
    else:
        path = Path(folder)
        if (path / "recipe.yaml").exists():
            raise WorkbenchError(
                f"{folder} holds a run already; choose another folder, or go on with "
                f"wb.attach({str(folder)!r}).resume()."
            )
    kept = RunFolder(path.resolve())
    try:
        kept.path.mkdir(parents=True, exist_ok=True)
        kept.write_recipe(recipe)
    except OSError as error:
        raise WorkbenchError(
            f"Can't make the run's folder {path} ({error.strerror}); give folder=… on a disk with room "
            "that you may write to."
        ) from error
    return kept


def run_folders(root: Path) -> list[Path]:
    """The folders of runs in and below `root`, newest first; beside them those that hold no run at all."""
    if not root.is_dir():
        return []
    if _marked(root):
        return [root]
    found = [path for child in _folders(root) for path in _runs_in(child) or [child]]
    return sorted(found, key=started, reverse=True)


def started(path: Path) -> float:
    """When the run in `path` began: its recipe is written once, and first of all."""
    recipe = path / "recipe.yaml"
    return (recipe if recipe.is_file() else path).stat().st_mtime


def _runs_in(path: Path) -> list[Path]:
    if _marked(path):
        return [path]  # what is below is the run's own
    return [found for child in _folders(path) for found in _runs_in(child)]


def _marked(path: Path) -> bool:
    return any((path / name).is_file() for name in MARKS)


def _folders(path: Path) -> list[Path]:
    try:
        children = sorted(path.iterdir())
    except OSError:  # not ours to read; named as a folder without a run
        return []
    return [p for p in children if p.is_dir() and not p.is_symlink() and p.name[0] != "."]


# ------------------------------------------------------------------ one run in passing


def glance(path: Path) -> dict[str, Any]:
    """The last step of a run's metrics, and pass@1 of its first and last evaluation; "" is not known.

    A few lines are read out of thousands, so that a long list of long runs is quick.
    """
    try:
        lines = (path / "metrics.jsonl").read_bytes().splitlines()
    except FileNotFoundError:
        lines = []
    evaluated = (line for line in reversed(lines) if b'"eval/pass@1"' in line)
    first = next(_records(iter(lines)), {})
    last, now = next(_records(reversed(lines)), {}), next(_records(evaluated), {})
    return {
        "step": last.get("step", 0),
        "first": first.get("eval/pass@1"),
        "now": now.get("eval/pass@1"),
    }


def _records(lines: Iterator[bytes]) -> Iterator[dict[str, Any]]:
    """Lines as records, without those cut short by a kill."""
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict):
            yield record


# ------------------------------------------------------------------ tags, name, end


@dataclass(frozen=True)
class Deleted:
    """In the place of the folder of a run that was deleted; says so when it is used."""

    name: str

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # asked by copy and pickle
            raise AttributeError(name)
        raise WorkbenchError(
            f"{self.name} was deleted; start another run with wb.train, or find one in wb.runs()."
        )


class Kept:
    """The part of a Run that is about its folder: name, tags, rename, delete."""

    folder: RunFolder
    live: bool
    _worker: Any

    @property
    def name(self) -> str:
        """The name of the run's folder."""
        return self.folder.name

    @property
    def path(self) -> Path:
        """The run's folder."""
        return self.folder.path

    @property
    def tags(self) -> tuple[str, ...]:
        """What it was tagged with, in that order."""
        return read_tags(self.folder)

    def tag(self, *tags: str) -> None:
        """Add tags, such as "good"; they are kept in the run's folder and shown by `wb.runs()`."""
        wanted = [_checked_tag(tag) for tag in tags]
        write_tags(self.folder, (*self.tags, *wanted))

    def untag(self, *tags: str) -> None:
        """Take tags away."""
        known = self.tags
        for tag in tags:
            if tag not in known:
                raise WorkbenchError(unknown(f"tag of {self.name}", tag, known or ("none",)))
        write_tags(self.folder, [tag for tag in known if tag not in tags])

    def rename(self, name: str) -> None:
        """Give the run's folder another name; not while the run is going."""
        self._must_rest("renamed")
        before, self.folder = self.path, rename_folder(self.folder, name)
        if HERE.get(before) is self:
            del HERE[before]
            HERE[self.path] = self

    def delete(self) -> None:
        """Delete the run's folder with all that is in it; not while the run is going.

        Refused as well where the folder holds files that no run has written.
        """
        self._must_rest("deleted")
        delete_folder(self.folder)
        HERE.pop(self.path, None)
        self.folder, self._worker = Deleted(self.name), None  # type: ignore[assignment]

    def _must_rest(self, verb: str) -> None:
        if self.live:
            raise WorkbenchError(f"{self.name} is going; it can be {verb} once it is stopped.")


def read_tags(folder: RunFolder) -> tuple[str, ...]:
    """The tags in about.json; none where there is no such file."""
    try:
        text = folder.path.joinpath(ABOUT).read_text(encoding="utf-8")
    except FileNotFoundError:
        return ()
    try:
        return tuple(str(tag) for tag in json.loads(text)["tags"])
    except (ValueError, KeyError, TypeError) as error:
        raise WorkbenchError(
            f"{ABOUT} of {folder.name} is damaged; mend it or delete it."
        ) from error


def write_tags(folder: RunFolder, tags: Any) -> None:
    """Write about.json, whole or not at all; each tag once."""
    text = json.dumps({"tags": list(dict.fromkeys(tags))}, ensure_ascii=False, indent=1)
    try:
        replace_text(folder.path / ABOUT, text + "\n")
    except OSError as error:
        raise WorkbenchError(
            f"Can't write the tags of {folder.name} ({error.strerror}); free or unlock the disk."
        ) from error


def _checked_tag(tag: Any) -> str:
    text = tag.strip() if isinstance(tag, str) else ""
    if not text or "," in text or not text.isprintable():
        raise WorkbenchError(f"{tag!r} is no tag; give a word or a few, without a comma.")
    return text


def rename_folder(folder: RunFolder, name: str) -> RunFolder:
    """The folder under its new name, beside where it was."""
    bad = not isinstance(name, str) or not name.isprintable() or name != name.strip()
    if bad or not name or name.startswith(".") or set(name) & set('/\\:*?"<>|'):
        raise WorkbenchError(
            f"{name!r} can't name a run's folder; give a name without / \\ : * ? \" < > | that does "
            "not begin with a dot."
        )
    target = folder.path.with_name(name)
    if target == folder.path:
        return folder
    if os.path.lexists(target):
        raise WorkbenchError(f"{name} is taken in {target.parent}; choose another name.")
    try:
        folder.path.rename(target)
    except OSError as error:
        raise WorkbenchError(
            f"{folder.name} can't be renamed ({error.strerror}); unlock its folder first."
        ) from error
    return RunFolder(target)


def delete_folder(folder: RunFolder) -> None:
    """Delete a run's folder; refused where it holds anything that is not a run's."""
    foreign = foreign_files(folder.path)
    if foreign:
        more = len(foreign) - NAMED_AT_MOST
        names = ", ".join(foreign[:NAMED_AT_MOST]) + (f" and {more} more" if more > 0 else "")
        raise WorkbenchError(
            f"{folder.name} holds what is not a run's own ({names}); move it elsewhere first."
        )
    try:
        shutil.rmtree(folder.path)
    except OSError as error:
        raise WorkbenchError(
            f"{folder.name} can't be deleted ({error.strerror}: {error.filename}); unlock it first."
        ) from error


def foreign_files(path: Path) -> list[str]:
    """Files and links in a run's folder that no run writes, by their place in it."""
    found = []
    for parent, folders, files in os.walk(path):
        inside = Path(parent).relative_to(path)
        if inside.parts and inside.parts[0] in TRACKED:
            continue
        links = [name for name in folders if Path(parent, name).is_symlink()]
        found += [inside / name for name in links]
        found += [inside / name for name in files if not _is_own(Path(parent, name), inside / name)]
    return sorted(place.as_posix() for place in found)


def _is_own(file: Path, place: Path) -> bool:
    """Whether a run writes a file to this place in its folder."""
    parts = tuple(part.removeprefix(".part-") for part in place.parts)  # cut short while written
    if len(parts) > 2 and parts[0] == REWOUND:
        parts = parts[2:]
    if file.is_symlink():
        return False
    if len(parts) == 1:
        return parts[0] in OWN_FILES
    if parts[0] in TABLES:
        return len(parts) == 2 and parts[1].endswith(".parquet")
    stepped = parts[0] in MODELS and len(parts) == 3 and parts[1].isdigit()
    return stepped and (parts[2] in MODEL_FILES or parts[2].endswith(MODEL_ENDINGS))
