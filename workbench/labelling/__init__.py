"""Self-supervised constraint reward models: made from what a policy writes with and without a constraint.

    1. The policy answers every rung of the training chains (`pairs.climb`).
    2. Adjacent rungs give pairs: with the constraint against without (`pairs.pairs_of`).
    3. A classifier with two outputs, begun from a decoder's weights, learns them (`fitting`).
    4. It is measured on chains held out (`quality`), and frozen.

`fit` is that from end to end; `in_force` gives a run the model that its recipe asks for at a step.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from workbench.labelling.fitting import EPOCHS, TINY, fit_pairs
from workbench.labelling.pairs import Pair, climb, pairs_of, split_by_chain
from workbench.labelling.quality import held_out_quality
from workbench.recipe import Recipe
from workbench.rewards import REWARDS
from workbench.rewards.constraints import OWN, PAIRS
from workbench.rewards.verdicts import VerdictModel, load_verdict_model, new_verdict_model
from workbench.seeds import LABELS, step_seed
from workbench.variants import WorkbenchError, unknown

if TYPE_CHECKING:
    from workbench.models import Policy

CHAINS = 400  # at most, of those that are trained on
SAMPLES = 4  # answers to each rung
HELD_OUT = 0.2  # of the chains
LORA_RANK = 16  # of the update where the backbone is not tiny
REWARD = "constraints"
TRAINING = ("pairs", "loss")  # parameters of the reward that the own model depends on
CARD = "measured.json"
Tell = Callable[[str], None]


@dataclass(frozen=True)
class ConstraintModel:
    """A constraint reward model with what is known of it."""

    judge: VerdictModel
    step: int = 0  # the step before which it was trained
    settings: dict[str, Any] = field(default_factory=dict)  # that it was trained with
    quality: dict[str, float] = field(default_factory=dict)

    def save(self, folder: str | Path) -> Path:
        """Write the classifier and what is known of it into `folder`; the folder."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.judge.save(folder)
        known = {"step": self.step, "settings": self.settings, "quality": self.quality}
        (folder / CARD).write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
        return folder


def load(folder: str | Path, device: str | torch.device = "cpu") -> ConstraintModel:
    """A constraint reward model as `ConstraintModel.save` wrote it, or any classifier with two outputs."""
    judge = load_verdict_model(str(folder), str(device))
    card = Path(folder) / CARD
    known = json.loads(card.read_text(encoding="utf-8")) if card.is_file() else {}
    return ConstraintModel(
        judge, **{key: known[key] for key in ("step", "settings", "quality") if key in known}
    )


def fit(
    policy: Policy,
    task: Any,
    *,
    backbone: str = "",
    quantize: str = "none",
    lora_rank: int | None = None,
    pairs: str = "adjacent",
    loss: str = "binary",
    hard: bool = False,
    chains: int = CHAINS,
    samples: int = SAMPLES,
    epochs: int = EPOCHS,
    learning_rate: float | None = None,
    max_new_tokens: int = 64,
    seed: int = 0,
    step: int = 0,
    tell: Tell | None = None,
    out: str | Path | None = None,
) -> ConstraintModel:
    """Train a constraint reward model on what `policy` writes; about a minute with the tiny models.

    Args:
        backbone: the decoder to begin from; by default the policy's own base model.
        quantize: of the backbone: "none", or "nf4" and "int8" with a `lora_rank`.
        lora_rank: 0 trains all weights; by default that for a tiny policy's own base, else 16.
        pairs: "adjacent" rungs, or "far": every rung below.
        loss: "binary", or "bradley_terry".
        hard: whether hard constraints give pairs to train on too, for a reward without rules.
        chains, samples: at most so many chains, so many answers to each rung.
        tell: takes a line of progress now and then; by default a bar is drawn.
        out: a folder to save it in.
    """
    started = time.perf_counter()
    with _progress(tell) as say:
        say(0, 1, "answering the rungs")
        sizes = {"chains": chains, "samples": samples, "max_new_tokens": max_new_tokens}
        labelled = label(policy, task, pairs=pairs, hard=hard, seed=seed, **sizes)
        judge = new_verdict_model(
            backbone or policy.name,
            quantize=quantize,
            lora_rank=_rank(policy, backbone, lora_rank),
            device=policy.device,
            seed=seed % 2**31,
        )
        options = {"loss": loss, "epochs": epochs, "learning_rate": learning_rate, "seed": seed}
        fit_pairs(judge, labelled.train, told=lambda n, of: say(n, of, "training"), **options)
    quality = held_out_quality(judge, labelled.held, labelled.calibration)
    quality |= {"pairs": float(len(labelled.train)), "seconds": time.perf_counter() - started}
    made = ConstraintModel(judge, step, {"pairs": pairs, "loss": loss, "hard": hard}, quality)
    if out is not None:
        made.save(out)
    return made


@dataclass(frozen=True)
class Labelled:
    """Pseudo-labels: pairs to train on, pairs of other chains, and hard pairs of those, to calibrate."""

    train: list[Pair]
    held: list[Pair]
    calibration: list[Pair]


def label(
    policy: Policy,
    task: Any,
    *,
    pairs: str = "adjacent",
    hard: bool = False,
    chains: int = CHAINS,
    samples: int = SAMPLES,
    max_new_tokens: int = 64,
    seed: int = 0,
) -> Labelled:
    """Have `policy` answer the rungs of the training chains, and pair its answers; arguments as in `fit`."""
    if pairs not in PAIRS:
        raise WorkbenchError(unknown("pairs", pairs, PAIRS))
    rows = task.whole_chains("train")[:chains]
    ladders = climb(policy, task, rows, samples=samples, max_new_tokens=max_new_tokens, seed=seed)
    found = pairs_of(ladders, task, far=pairs == "far", hard=hard, seed=seed)
    train, held = split_by_chain(found, HELD_OUT, seed)
    others = {pair.chain for pair in held}
    every = pairs_of([x for x in ladders if x.number in others], task, hard=True, seed=seed)
    return Labelled(train, held, [pair for pair in every if pair.hard])


def _rank(policy: Policy, backbone: str, given: int | None) -> int:
    if given is not None:
        return given
    size = sum(p.numel() for p in policy.model.parameters())
    return 0 if size < TINY and not backbone else LORA_RANK


@contextlib.contextmanager
def _progress(tell: Tell | None) -> Iterator[Callable[[int, int, str], None]]:
    """Inside this context progress (done, of how many, what) is told now and then, or drawn as a bar."""
    if tell is not None:
        yield lambda done, total, what: _tell(tell, done, total, what)
        return
    from tqdm.auto import tqdm

    with tqdm(desc="constraint reward model", unit="update", leave=False) as bar:

        def draw(done: int, total: int, what: str) -> None:
            bar.total = total
            bar.set_postfix_str(what, refresh=False)
            bar.update(done - bar.n)

        yield draw


def _tell(tell: Tell, done: int, total: int, what: str) -> None:
    """A line at the start, and at every twentieth of the way."""
    if done * 20 // total != (done - 1) * 20 // total:
        tell(f"constraint reward model: {what}, {100 * done // total} %")


# --- in a run -----------------------------------------------------------------------------------------


def wanted(recipe: Recipe) -> dict[str, Any] | None:
    """The parameters of the reward 'constraints' where it needs a model, else None."""
    if REWARD not in recipe.rewards:
        return None
    arguments = REWARDS[REWARD].defaults | recipe.reward_args.get(REWARD, {})
    return None if arguments["scorer"] == "rules" else arguments


def settings_of(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of `fit` that the reward's parameters stand for."""
    return {key: arguments[key] for key in TRAINING} | {"hard": arguments["scorer"] == "model"}


def in_force(
    held: ConstraintModel | None,
    policy: Policy,
    task: Any,
    recipe: Recipe,
    step: int,
    tell: Tell | None = None,
) -> ConstraintModel | None:
    """The constraint reward model of `step`: the one held, one that was given, or one trained now.

    The own model is trained when first needed, when its parameters change, and every `refresh_every` steps,
    from the policy as it then is; all of it is a function of seed and step. Without the reward, and where
    rules judge every constraint, whatever is held stays.
    """
    arguments = wanted(recipe)
    if arguments is None or (arguments["scorer"] == "mixed" and getattr(task, "checked", False)):
        return held  # rules judge all there is
    device = policy.device
    if arguments["reward_model"] != OWN:
        name = arguments["reward_model"]
        if held is None or held.settings.get("given") != name:
            found = load(name, device)
            return ConstraintModel(found.judge, step, {"given": name}, {})
        return held
    settings = settings_of(arguments)
    every = arguments["refresh_every"]
    due = held is not None and every and step - held.step >= every
    if held is not None and held.settings == settings and not due:
        return held
    return fit(
        policy,
        task,
        quantize="none" if _tiny(policy) else recipe.quantize,
        **settings,
        max_new_tokens=recipe.max_new_tokens,
        seed=step_seed(recipe.seed, step, LABELS),
        step=step,
        tell=tell,
    )


def extras_of(model: ConstraintModel | None) -> dict[str, Any]:
    """What rewards may need of it, by the names that their rows ask with."""
    return {} if model is None else {"constraint_model": model.judge}


def _tiny(policy: Policy) -> bool:
    return sum(p.numel() for p in policy.model.parameters()) < TINY
