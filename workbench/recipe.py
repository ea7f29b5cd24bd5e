"""Recipe: every choice of a run in one frozen dataclass, validated without loading torch.

Each field carries its help text, its range and whether it may change while a run is going (`live`); the
panel, the command line and the messages are made from these. A variant field takes a name of its table or a
function of your own with the same signature.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from workbench.anchors import ANCHORS
from workbench.checks import check
from workbench.fields import check_setting, setting
from workbench.objectives import OBJECTIVES
from workbench.rewards import REWARDS
from workbench.separation import SEPARATIONS
from workbench.sharing import code_of, link_of, read_link
from workbench.surrogates import AGGREGATIONS, SURROGATES
from workbench.tasks import TASKS, make_task
from workbench.trackers import TRACKERS
from workbench.variants import WorkbenchError, lookup, name_of, unknown

TABLES: dict[str, dict[str, Any]] = {
    "task": TASKS,
    "objective": OBJECTIVES,
    "surrogate": SURROGATES,
    "aggregation": AGGREGATIONS,
    "anchor": ANCHORS,
    "rewards": REWARDS,
    "separation": SEPARATIONS,
}
# These take your own functions too.
OPEN_KINDS = ("objective", "surrogate", "aggregation", "anchor")


@dataclass(frozen=True)
class Recipe:
    """What to train, on what, towards what, and how; see each field's `doc` in its metadata."""

    name: str = setting("", "Short name of the run; made from task and objective when empty.")
    seed: int = setting(0, "Seed of everything random in the run.", low=0, high=2**31 - 1)

    model: str = setting(
        "tiny-strong", "A shipped name, a folder, or a name on the Hugging Face hub."
    )
    quantize: str = setting(
        "nf4",
        "Base weights: 4-bit, 8-bit or as they are; auto: as they are where the forecast says that they fit, "
        "else 4-bit, and with them all that is left at auto.",
        choices=("nf4", "int8", "none", "auto"),
    )  # fmt: skip
    lora_rank: int = setting(16, "Rank of the trained low-rank update.", low=1, high=1024)
    lora_alpha: float = setting(32.0, "Scale of the update: alpha / rank times B A.", above=0)
    lora_targets: str = setting("all-linear", "Layers that get an update; names joined by commas.")
    lora_dropout: float = setting(0.0, "Dropout before the update while training.", low=0, high=0.9)
    device: str = setting(
        "auto", "Where to train; auto is the NVIDIA card if there is one, else the CPU.",
        choices=("auto", "cpu", "cuda", "mps"),
    )  # fmt: skip

    engine: str = setting(
        "auto",
        "What decodes rollouts: the bench's own loops (native, which auto takes), transformers' paged "
        "generation, or vLLM where it is installed.",
        choices=("auto", "native", "paged", "vllm"),
    )  # fmt: skip
    merged: str = setting(
        "auto",
        "Whether rollouts come from a merged, dequantised copy of the weights: where it fits, always, or "
        "never (slower, in less memory).",
        choices=("auto", "always", "never"),
    )  # fmt: skip
    thinking: str = setting(
        "auto",
        "Whether the model thinks: as its chat template has it, or on or off where that has a switch "
        "(enable_thinking, as Qwen3's; thinking, as DeepSeek's).",
        choices=("auto", "on", "off"),
    )  # fmt: skip
    think_tags: str = setting(
        "auto",
        "The model's own tags around its thoughts, such as '<think> </think>'; found by itself.",
    )

    threads: int = setting(
        0, "CPU threads of the tensor work; 0 chooses: one for a tiny model, else all.", low=0
    )

    task: str = setting("countdown", "The problems and their checker.")
    task_args: dict[str, Any] = setting({}, "Parameters of the task.")
    rewards: dict[Any, float] = setting(
        {"correct": 1.0, "format": 0.0, "length": 0.0},
        "Weight of each reward; weight 0 measures without training on it.", live=True,
    )  # fmt: skip
    reward_args: dict[Any, dict[str, Any]] = setting(
        {}, "Parameters of rewards: name of the reward, then of the parameter.", live=True
    )
    standardise: str = setting(
        "never",
        "Before weighting: take each reward as it is, or less its group's mean and over its group's "
        "standard deviation, so that sums of unlike rewards weigh alike.",
        choices=("never", "group"), live=True,
    )  # fmt: skip
    reward_floor: float = setting(
        0.0,
        "Standard deviation within a group below which it teaches nothing: of the total reward, or of "
        "each reward by itself where they are standardised.",
        low=0, live=True,
    )  # fmt: skip
    truncated: str = setting(
        "as_is", "Total reward of a completion that was cut off: its own, or the lowest of its group.",
        choices=("as_is", "lowest"), live=True,
    )  # fmt: skip
    extra_votes: int = setting(
        0, "Further completions of each prompt that rewards see, and that are then dropped untrained.",
        low=0, live=True,
    )  # fmt: skip

    answerer: str = setting(
        "policy",
        "Who answers after </think>: the policy, or the initial model with the adapter off; its answers "
        "are never trained.",
        choices=("policy", "initial"), live=True,
    )  # fmt: skip
    answers_per_thought: int = setting(
        1, "Answers to each thought (M): a group holds group_size / M thoughts, judged by their mean.",
        low=1, live=True,
    )  # fmt: skip

    objective: str | Callable[..., Any] = setting("rloo", "From rewards to advantages.", live=True)
    objective_args: dict[str, Any] = setting({}, "Parameters of the objective.", live=True)
    surrogate: str | Callable[..., Any] = setting("reinforce", "The loss of a token.", live=True)
    surrogate_args: dict[str, Any] = setting({}, "Parameters of the surrogate.", live=True)
    aggregation: str | Callable[..., Any] = setting("sum", "From token losses to one.", live=True)
    anchor: str | Callable[..., Any] = setting("reverse_kl", "What ties it to the base.", live=True)
    anchor_args: dict[str, Any] = setting({}, "Parameters of the anchor.", live=True)
    beta: float = setting(0.0, "Weight of the anchor; 0 switches it off.", low=0, live=True)
    kl_target: float = setting(
        0.0, "KL to hold, in nats a token, by raising and lowering beta; 0 leaves beta alone.",
        low=0, live=True,
    )  # fmt: skip
    reference: str = setting(
        "fixed", "What the anchor ties to: the base, a moving average, or a copy made every few steps.",
        choices=("fixed", "moving_average", "periodic"), live=True,
    )  # fmt: skip
    reference_rate: float = setting(
        0.05, "Share of the policy that a moving average takes in after each step.",
        above=0, high=1, live=True,
    )  # fmt: skip
    reference_every: int = setting(20, "Steps between periodic copies.", low=1, live=True)

    separation: str = setting(
        "joint", "Which tokens get gradient: thinking and answer together, one of them, or in stages.",
        live=True,
    )  # fmt: skip
    separation_args: dict[str, Any] = setting({}, "Parameters of the separation.", live=True)

    curriculum: str = setting(
        "shuffled",
        "Which prompts: all, mixed; by stages, those with the fewest constraints first; only those with all "
        "the constraints of their chain; or one of each chain.",
        choices=("shuffled", "staged", "full", "one"), live=True,
    )  # fmt: skip
    prompts_per_step: int = setting(16, "Prompts in a step (P).", low=1)
    group_size: int = setting(16, "Completions of each prompt (G).", low=1)
    max_new_tokens: int = setting(64, "Longest completion, in tokens.", low=1)
    stop: str = setting(
        "", 'Text that ends a completion, or a JSON list of such texts, as ["Question:", "User:"].'
    )
    refill_rounds: int = setting(
        0, "Rounds of new prompts that may replace the groups of a step that have no signal.",
        low=0, high=16, live=True,
    )  # fmt: skip
    temperature: float = setting(
        1.0, "Sampling temperature; the KL shown is exact in the mean at 1.",
        above=0, high=10, live=True,
    )  # fmt: skip
    top_p: float = setting(1.0, "Nucleus sampling; 1 keeps all tokens.", above=0, high=1, live=True)
    top_k: int = setting(0, "Sample among the k likeliest tokens; 0 keeps all.", low=0, live=True)
    min_p: float = setting(0.0, "Drop tokens below this share of the likeliest one.",
                          low=0, high=1, live=True)  # fmt: skip

    steps: int = setting(100, "Optimiser steps (batches of rollouts).", low=1, live=True)
    optimizer: str = setting(
        "adamw", "AdamW in fp32, or bitsandbytes' with moments in 8 bits, paged on a GPU.",
        choices=("adamw", "adamw8bit"),
    )  # fmt: skip
    learning_rate: float = setting(2e-3, "AdamW's step size.", low=0, high=1, live=True)
    weight_decay: float = setting(
        0.0, "AdamW's weight decay on the low-rank update.", low=0, high=1
    )
    max_grad_norm: float = setting(
        1.0, "Longer gradients are cut to this norm.", above=0, live=True
    )
    minibatches: int = setting(1, "Updates that a batch is cut into, by groups.", low=1)
    epochs: int = setting(1, "Passes over each batch.", low=1)
    sampler_correction: str = setting(
        "auto",
        "Weight on a token's loss for what separates sampler and trainer: the ratio of their probabilities, "
        "of the token or of its whole completion, cut off at sampler_cap. Auto takes the token's where "
        "another engine or a rounded copy samples, else none.",
        choices=("auto", "none", "token", "sequence"), live=True,
    )  # fmt: skip
    sampler_cap: float = setting(
        2.0, "Largest weight of the sampler's correction.", low=1, high=100, live=True
    )
    microbatch: int = setting(
        256, "Completions in one forward pass; lower it to save memory.", low=1, live=True
    )
    microbatch_tokens: int = setting(
        0,
        "Tokens in one forward pass, of completions sorted by length; 0 sets no limit on the CPU, and on a "
        "GPU one that fits its memory. Where memory gives out, it is halved.",
        low=0, live=True,
    )  # fmt: skip
    gradient_checkpointing: str = setting(
        "auto",
        "Keep each layer's input alone and run the layer again in the backward pass: less memory, about a "
        "third more time; auto does so with a large model on a GPU.",
        choices=("auto", "on", "off"),
    )  # fmt: skip

    eval_every: int = setting(10, "Steps between evaluations.", low=1)
    eval_prompts: int = setting(64, "Held-out prompts of an evaluation, always the same.", low=1)
    eval_samples: int = setting(64, "Completions of each: pass@k is known up to this k.", low=1)
    cross_samples: int = setting(
        0,
        "Thoughts of each held-out question whose answers, by the policy and by the initial policy, are "
        "judged at every evaluation; 0 leaves it out.",
        low=0, live=True,
    )  # fmt: skip
    checkpoint_every: int = setting(10, "Steps between checkpoints.", low=1)
    rollouts_every: int = setting(5, "Steps between saved batches of rollouts.", low=1)
    probe_every: int = setting(
        0, "Steps between probes, the checkpoints of the geometry; 0 takes none.", low=0, live=True
    )
    probe_prompts: int = setting(32, "Prompts of a probe: the last of the held-out ones.", low=1)
    probe_samples: int = setting(8, "Completions of each; a majority needs two or more.", low=2)
    tracker: str = setting(
        "none", "Where the numbers also go, on this machine; needs the extra 'trackers'.",
        choices=tuple(TRACKERS),
    )  # fmt: skip

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            check_setting(field, getattr(self, field.name), open=field.name in OPEN_KINDS)
        check(self)

    def variant(self, kind: str) -> Any:
        """The row (or the user's own function) that field `kind` names."""
        value = getattr(self, kind)
        return value if callable(value) else lookup(TABLES[kind], kind, value)

    def reward_functions(
        self, extras: Mapping[str, Any] | None = None
    ) -> dict[str, Callable[..., Any]]:
        """Reward name -> function of (rollouts, task), for every reward that is measured.

        `extras` are what a run has beside its recipe: a reward gets those that its row needs.
        """
        found = {r: r if callable(r) else REWARDS[r] for r in self.rewards}
        functions = {}
        for r, f in found.items():
            needed = {n: extras[n] for n in getattr(f, "needs", ()) if n in (extras or {})}
            bound = self.reward_args.get(r, {}) | needed
            functions[name_of(r)] = functools.partial(f, **bound) if bound else f
        return functions

    def reward_weights(self) -> dict[str, float]:
        """Reward name -> weight."""
        return {name_of(r): float(weight) for r, weight in self.rewards.items()}

    def make_task(self) -> Any:
        """The task with its parameters."""
        return make_task(self.task, **self.task_args)

    def title(self) -> str:
        """The run's name, or one made from task and objective."""
        return self.name or f"{self.task}-{name_of(self.objective)}"

    def replace(self, **changes: Any) -> Recipe:
        """A validated copy with some fields changed.

        A new objective, surrogate, anchor or task starts from its own defaults: the parameters of the old
        one are dropped unless new ones are given.
        """
        for field in changes:
            lookup(FIELDS, "recipe field", field)
        return dataclasses.replace(self, **self._completed(changes))

    def stack(self, pending: dict[str, Any], fields: dict[str, Any]) -> dict[str, Any]:
        """Changes of this recipe that wait, with later ones on top; raises on a wrong value."""
        stacked = pending | self.replace(**pending)._completed(fields)
        self.replace(**stacked)
        return stacked

    def _completed(self, changes: dict[str, Any]) -> dict[str, Any]:
        """`changes` with no parameters for every variant that they replace without giving any."""
        for field in changes:
            arguments = f"{field}_args"
            if arguments in FIELDS and changes[field] != getattr(self, field):
                changes = {arguments: {}} | changes
        return changes

    def diff(self, other: Recipe) -> dict[str, tuple[Any, Any]]:
        """Fields that differ: name -> (value here, value there)."""
        mine, theirs = self.to_dict(), other.to_dict()
        return {key: (mine[key], theirs[key]) for key in mine if mine[key] != theirs[key]}

    def to_dict(self) -> dict[str, Any]:
        """Plain values only; a function of your own is written as its name."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        plain = {key: name_of(value) if callable(value) else value for key, value in values.items()}
        plain["rewards"] = self.reward_weights()
        plain["reward_args"] = {name_of(r): dict(given) for r, given in self.reward_args.items()}
        return {
            key: dict(value) if isinstance(value, dict) else value for key, value in plain.items()
        }

    @classmethod
    def from_dict(
        cls, values: Mapping[str, Any], functions: Iterable[Callable[..., Any]] = ()
    ) -> Recipe:
        """The recipe of `to_dict`; `functions` are your own, matched by name."""
        if not isinstance(values, Mapping):
            raise WorkbenchError(
                "A recipe is a list of 'field: value' lines; this is something else."
            )
        for field in values:
            lookup(FIELDS, "recipe field", field)
        own = {name_of(function): function for function in functions}
        changes = dict(values)
        for kind in OPEN_KINDS:
            changes |= {kind: _find(kind, changes[kind], own)} if kind in changes else {}
        for field in ("rewards", "reward_args"):
            if isinstance(changes.get(field), Mapping):
                items = changes[field].items()
                changes[field] = {_find("rewards", name, own): value for name, value in items}
        return cls(**changes)

    def to_yaml(self) -> str:
        """The whole recipe as YAML."""
        return yaml.safe_dump(self.to_dict(), sort_keys=False, allow_unicode=True)

    @classmethod
    def from_yaml(cls, text: str, functions: Iterable[Callable[..., Any]] = ()) -> Recipe:
        """The recipe in a YAML text; missing fields take their defaults."""
        try:
            values = yaml.safe_load(text)
        except yaml.YAMLError as error:
            place = getattr(error, "problem_mark", None)
            where = f" at line {place.line + 1}" if place else ""
            raise WorkbenchError(f"The recipe is not valid YAML{where}; correct it.") from error
        return cls.from_dict({} if values is None else values, functions)

    def changed(self) -> dict[str, Any]:
        """The fields that differ from their defaults, as plain values."""
        defaults = Recipe().to_dict()
        return {key: value for key, value in self.to_dict().items() if value != defaults[key]}

    def to_code(self) -> str:
        """A snippet that runs this recipe."""
        return code_of(self.changed(), {name_of(f) for f in own_functions(vars(self))})

    def to_link(self) -> str:
        """One short string that holds every choice, the seed included."""
        return link_of(self.changed())

    @classmethod
    def from_link(cls, link: str, functions: Iterable[Callable[..., Any]] = ()) -> Recipe:
        """The recipe in a link."""
        return cls.from_dict(read_link(link), functions)


FIELDS: dict[str, dataclasses.Field[Any]] = {f.name: f for f in dataclasses.fields(Recipe)}
LIVE = tuple(name for name, field in FIELDS.items() if field.metadata["live"])


def own_functions(values: Mapping[str, Any]) -> tuple[Callable[..., Any], ...]:
    """The user's own functions among field values: variants and rewards."""
    rewards = {**values.get("rewards", {}), **values.get("reward_args", {})}
    return tuple(value for value in [*values.values(), *rewards] if callable(value))


def _find(kind: str, name: Any, own: Mapping[str, Callable[..., Any]]) -> Any:
    """A table's name, or the user's function of that name."""
    if not isinstance(name, str) or name in TABLES[kind]:
        return name
    if name not in own:
        raise WorkbenchError(
            unknown(kind.removesuffix("s"), name, TABLES[kind])
            + f" If it is a function of your own, pass it: functions=[{name}]."
        )
    return own[name]
