"""Claim: one file of data/claims, checked. What to train, how often, and what to compare. No torch."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from workbench.claims.results import BASE
from workbench.packaged import data_path
from workbench.recipe import FIELDS, Recipe
from workbench.variants import WorkbenchError, lookup, unknown

KEYS = (
    "extends", "title", "questions", "recipe", "evaluation", "seeds", "arms", "compare", "expect",
    "curve_every", "geometry", "also", "models",
)  # fmt: skip
# A prompt counts as solved with more successes than a threshold, of `samples`.
SIZES = {"prompts": 128, "samples": 128, "ks": [1, 4, 8, 16, 64], "thresholds": [0]}
# What the base's measures depend on: the same in all arms.
OF_BASE = ("model", "quantize", "device", "task", "task_args", "max_new_tokens")
OWN = (
    "name", "seed", "eval_every", "eval_prompts", "eval_samples", "cross_samples", "checkpoint_every",
    "probe_every", "probe_prompts", "probe_samples",
)  # fmt: skip
SMOKE = {
    "steps": 2, "prompts_per_step": 4, "group_size": 8,
    "probe_every": 1, "probe_prompts": 4, "probe_samples": 4, "cross_samples": 2,
}  # fmt: skip


@dataclass(frozen=True)
class Expectation:
    """What somebody says of a difference: `sign` 1 is arm above control, -1 below, 0 no difference."""

    who: str
    says: str
    arm: str
    control: str
    metric: str
    sign: int


@dataclass(frozen=True)
class Geometry:
    """Which runs make the envelope, and the settings of the warnings; all fixed before any result."""

    arm: str  # whose runs with `seeds` are the reference: they are judged nowhere
    seeds: tuple[int, ...]
    patience: int = 3  # probes in a row outside
    margin: float = 0.5  # deviations of the reference that still count as inside, for verdicts
    margins: tuple[float, ...] = (0.0, 0.5, 1.0, 2.0)  # at which warnings are scored


@dataclass(frozen=True)
class Claim:
    """One file of data/claims: what to train, how often, and what to compare."""

    name: str
    title: str
    questions: tuple[str, ...]
    shared: dict[str, Any]  # recipe fields of all arms
    evaluation: dict[str, Any]  # prompts, samples, ks, thresholds
    seeds: tuple[int, ...]
    arms: dict[str, dict[str, Any]]  # name -> changes of the recipe
    notes: dict[str, str]
    compare: tuple[tuple[str, str], ...] = ()
    expect: tuple[Expectation, ...] = ()
    curve_every: int = 0  # steps between evaluations kept as a curve; 0: only the end
    geometry: Geometry | None = None  # needs probes: probe_every in the shared recipe
    also: dict[str, dict[str, Any]] = dataclasses.field(
        default_factory=dict
    )  # name -> other task_args
    models: tuple[str, ...] = ()  # arms whose constraint reward models are measured thoroughly

    def seeds_of(self, arm: str) -> tuple[int, ...]:
        """The seeds of one arm: those of all, and the reference's own."""
        extra = self.geometry.seeds if self.geometry and arm == self.geometry.arm else ()
        return tuple(dict.fromkeys((*self.seeds, *extra)))

    def base_recipe(self) -> Recipe:
        """The recipe that all arms share."""
        steps = self.shared.get("steps", Recipe().steps)
        every = self.curve_every or steps
        sizes = {
            "eval_prompts": self.evaluation["prompts"],
            "eval_samples": self.evaluation["samples"],
        }
        own = {"name": self.name, "eval_every": every, "checkpoint_every": steps, **sizes}
        return Recipe.from_dict(self.shared | own)

    def recipe_of(self, arm: str, seed: int = 0) -> Recipe:
        """The recipe of one cell."""
        changes = lookup(self.arms, "arm", arm)
        return self.base_recipe().replace(**changes, name=f"{self.name}-{arm}", seed=seed)

    def base_settings(self) -> dict[str, Any]:
        """What the base's measures are true for."""
        recipe = self.base_recipe().to_dict()
        keys = [
            *OF_BASE,
            *(("cross_samples", "rewards", "reward_args") if recipe["cross_samples"] else ()),
        ]
        further = {"also": self.also} if self.also else {}
        return {key: recipe[key] for key in keys if key != "device"} | self.evaluation | further

    def smoke(self) -> Claim:
        """The same claim in a size that only shows that it runs: one seed, two steps, four prompts."""
        given = Recipe().to_dict() | self.shared
        small: dict[str, Any] = {key: min(value, given[key]) for key, value in SMOKE.items()}
        if (
            given["task"] == "instructions"
        ):  # few chains: they are what a constraint reward model learns from
            small["task_args"] = given["task_args"] | {"chains": 8}
        arms = {
            name: {key: value for key, value in changes.items() if key not in SMOKE}
            for name, changes in self.arms.items()
        }
        ks = self.evaluation["ks"]
        geometry = self.geometry and dataclasses.replace(
            self.geometry, seeds=self.geometry.seeds[:1], patience=1
        )
        return dataclasses.replace(
            self, shared=self.shared | small, arms=arms, seeds=self.seeds[:1], geometry=geometry,
            evaluation=self.evaluation | {"prompts": 4, "samples": max(ks)}, curve_every=0,
        )  # fmt: skip


def names() -> list[str]:
    """The shipped claims."""
    return sorted(path.stem for path in data_path("claims").glob("*.yaml"))


def read_claim(name: str | os.PathLike[str]) -> Claim:
    """A shipped claim by its name, or the claim in a YAML file of your own."""
    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        if str(name) not in names():
            raise WorkbenchError(unknown("claim", str(name), names()))
        path = data_path("claims", f"{name}.yaml")
    return claim_from(path.stem, _values(path))


def _values(path: Path) -> Any:
    """What the file says, on top of the shipped claim that it extends.

    Parts replace those of the other claim, but a recipe only its fields; a list of arms chooses among its
    arms, and its comparisons and expectations of arms that are left out are dropped.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise WorkbenchError(
            f"The claim {path} can't be read: {' '.join(str(error).split())}."
        ) from error
    if not isinstance(values, dict) or "extends" not in values:
        return values
    if values["extends"] not in names():
        raise WorkbenchError(unknown("claim to extend", str(values["extends"]), names()))
    parent = _values(data_path("claims", f"{values['extends']}.yaml"))
    own = {key: value for key, value in values.items() if key != "extends"}
    own["recipe"] = (parent.get("recipe") or {}) | (values.get("recipe") or {})
    if isinstance(own.get("arms"), list):
        own["arms"] = {arm: lookup(parent["arms"], "arm", arm) for arm in own["arms"]}
    known = {BASE, *(own.get("arms", parent["arms"]) or ())}
    kept = {
        "compare": [pair for pair in parent.get("compare") or () if set(pair) <= known],
        "expect": [
            item for item in parent.get("expect") or () if {item["arm"], item["control"]} <= known
        ],
    }
    return parent | kept | own  # a wrong name in the file's own lines is told when they are checked


def claim_from(name: str, values: Any) -> Claim:
    """The claim in the values of its file, checked."""
    if not isinstance(values, Mapping) or not isinstance(values.get("arms"), Mapping):
        raise WorkbenchError(f"Claim {name} has no arms; give 'arms:' with a name for each.")
    for key in values:
        if key not in KEYS:
            raise WorkbenchError(unknown(f"part of claim {name}", key, KEYS))
    arms = {str(arm): dict(changes or {}) for arm, changes in values["arms"].items()}
    notes = {arm: str(changes.pop("note", "")) for arm, changes in arms.items()}
    for arm, changes in arms.items():
        for field in changes:
            lookup(FIELDS, f"recipe field of arm {arm}", field)
            if field in (*OF_BASE, *OWN):
                raise WorkbenchError(
                    f"Arm {arm} of claim {name} sets {field}, which all arms share; remove it there."
                )
    compare = tuple((str(arm), str(control)) for arm, control in values.get("compare") or ())
    for arm in (arm for pair in compare for arm in pair):
        if arm not in (BASE, *arms):
            raise WorkbenchError(unknown(f"arm in 'compare' of claim {name}", arm, (BASE, *arms)))
    evaluation = SIZES | (values.get("evaluation") or {})
    for key in evaluation:
        lookup(SIZES, f"part of claim {name}'s evaluation", key)
    if max(evaluation["ks"]) > evaluation["samples"]:
        raise WorkbenchError(
            f"Claim {name} asks for pass@{max(evaluation['ks'])} of {evaluation['samples']} samples; "
            "give evaluation.samples at least the greatest of evaluation.ks."
        )
    return Claim(
        name=name,
        title=str(values.get("title", name)),
        questions=tuple(values.get("questions") or ()),
        shared=dict(values.get("recipe") or {}),
        evaluation=evaluation,
        seeds=tuple(values.get("seeds") or range(5)),
        arms=arms,
        notes=notes,
        compare=compare,
        expect=tuple(_expectation(name, item, arms) for item in values.get("expect") or ()),
        curve_every=int(values.get("curve_every") or 0),
        geometry=_geometry(name, values, arms) if values.get("geometry") else None,
        also={str(key): dict(changes) for key, changes in (values.get("also") or {}).items()},
        models=tuple(
            lookup_all(arms, f"arm in 'models' of claim {name}", values.get("models") or ())
        ),
    )


def lookup_all(table: Mapping[str, Any], what: str, wanted: Iterable[str]) -> list[str]:
    """The names wanted; WorkbenchError for the first that is not in the table."""
    names = [str(each) for each in wanted]
    for each in names:
        lookup(table, what, each)
    return names


def _geometry(name: str, values: Mapping[str, Any], arms: Mapping[str, Any]) -> Geometry:
    given = dict(values["geometry"])
    for key in given:
        lookup(Geometry.__dataclass_fields__, f"part of claim {name}'s geometry", key)
    if not (values.get("recipe") or {}).get("probe_every"):
        raise WorkbenchError(
            f"Claim {name} has a geometry but no probes; give probe_every in recipe."
        )
    lookup(arms, f"reference arm of claim {name}", given.get("arm", ""))
    if set(given.get("seeds") or ()) & set(values.get("seeds") or range(5)) or not given.get(
        "seeds"
    ):
        raise WorkbenchError(
            f"Claim {name} needs seeds of the geometry's reference that are none of its seeds, so that "
            "no run is judged by an envelope it belongs to."
        )
    lists = {key: tuple(given[key]) for key in ("seeds", "margins") if key in given}
    return Geometry(**given | lists)


def _expectation(name: str, item: Any, arms: Mapping[str, Any]) -> Expectation:
    wanted = [field.name for field in dataclasses.fields(Expectation)]
    if not isinstance(item, Mapping) or set(item) != set(wanted):
        raise WorkbenchError(f"In 'expect' of claim {name} give each line {', '.join(wanted)}.")
    for arm in (item["arm"], item["control"]):
        if arm not in (BASE, *arms):
            raise WorkbenchError(unknown(f"arm in 'expect' of claim {name}", arm, (BASE, *arms)))
    if item["sign"] not in (-1, 0, 1):
        raise WorkbenchError(
            f"In 'expect' of claim {name} sign is {item['sign']!r}; give -1, 0 or 1."
        )
    return Expectation(**item)


def parse_seeds(text: str) -> tuple[int, ...]:
    """(0, 1, 2, 7) of "0-2,7"."""
    seeds: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        ends = (first, last if dash else first)
        if not all(end.isdecimal() for end in ends) or not 0 <= int(ends[1]) - int(ends[0]) < 1000:
            raise WorkbenchError(f"--seeds is {text!r}; give whole numbers such as 0,1,2 or 0-4.")
        seeds += range(int(ends[0]), int(ends[1]) + 1)
    return tuple(dict.fromkeys(seeds))
