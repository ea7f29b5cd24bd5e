"""Cards of the guides and of the reward models: what they were made from, and measured to do."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from workbench.evaluation import EVAL_SEED
from workbench.models import load_policy
from workbench.rewards.learned import Judge, load_judge
from workbench.rewards.verifiable import well_formed
from workbench.rollout import sample
from workbench.tasks import make_task
from workbench.tasks.places import (
    CLIMATES,
    TERRAINS,
    Place,
    fit,
    generic_things,
    items_named,
    listing,
    places,
    questions,
    things_named,
)
from workbench.tiny import raters
from workbench.tiny.advice import GENERIC, GUIDES, SLIP, another
from workbench.tiny.card import CARD, FIGURES

SAMPLES = 32
PAIRS = 4096
MAX_NEW_TOKENS = 32  # no demonstration is longer
_THOUGHT = re.compile(r"<think>(\w+) is (\w+) and (\w+)</think>")

GUIDE_TEMPLATE = """\
---
license: apache-2.0
library_name: transformers
---

# {name}

A Llama of 0.8 million parameters, pretrained from nothing on made-up advice about forty made-up places,
such as `<think>Arvik is wet and grassy</think>Take an umbrella and trainers.` It recalls the facts
rightly only some of the time, mostly answers from its own thought, and now and then gives a generic
list. It knows nothing else.

Made by `{command}`; the same command gives the same weights on the same machine.

## The demonstrators

They state each attribute of the place rightly with probability {recall:g}, else another value.
{specific:.0%} of the answers name the items that the thought calls for, each of them another of its kind with
probability {slip:g}; {generic:.0%} are a generic list.

## Measured on the held-out questions, temperature 1

{questions} questions, {samples} samples each; weights as trained, and in NF4 with double quantisation.

{table}

recall: attributes that the thought states rightly. consistent: answers, of those that are not generic,
that name just the items that the thought calls for. quality: called-for items named / max(2, items
named). well-formed: one thought about the place asked for, an answer, and an end.
"""

JUDGE_TEMPLATE = """\
---
license: apache-2.0
library_name: transformers
---

# {name}

A Llama classifier with one output and 0.4 million parameters: a reward model of advice about forty
made-up places. It reads a question and an answer, never any thinking, and knows nothing else.

Made by `{command}`; the same command gives the same weights on the same machine.

## The raters

{utility}
Of two answers the first is preferred with probability sigmoid(4 (u1 - u2)). The model was trained on such
pairs with the loss of Bradley and Terry.

## Measured on the held-out questions

Agreement with the raters' utility on {pairs} pairs of answers with distinct utility: {agreement:.3f}.

Mean score and standard deviation over the held-out questions, by kind of answer:

{table}
"""

UTILITIES = {
    "reward-shortcut": "They like an answer for the share of the called-for items that it names, or for a "
    "generic list, whichever is more; a full generic list is worth 0.75 whatever the place.",
    "reward-fair": "They like an answer for the share of the called-for items that it names; a generic list "
    "is worth nothing.",
}


def write_guide_card(
    folder: Path, name: str, seed: int, steps: int, samples: int = SAMPLES
) -> None:
    """Measure the guide in `folder`, and write measured.json and README.md beside its weights."""
    figures = {
        quantize: measure_guide(load_policy(str(folder), quantize=quantize), samples)
        for quantize in ("none", "nf4")
    }
    asked, some = len(questions("eval")), list(figures["none"])
    write_card(folder, figures, GUIDE_TEMPLATE.format(
        name=name,
        command=f"workbench pretrain {name} --seed {seed} --steps {steps}",
        recall=GUIDES[name].recall,
        specific=1 - GENERIC,
        generic=GENERIC,
        slip=SLIP,
        questions=asked,
        samples=samples,
        table=markdown_table(["weights", *some], [
            [quantize, *(f"{found[key]:.3f}" for key in some)]
            for quantize, found in figures.items()
        ]),
    ))  # fmt: skip


def measure_guide(policy: Any, samples: int = SAMPLES) -> dict[str, float]:
    """Recall, consistency and the share of generic answers on the held-out questions."""
    task = make_task("questions")
    rows = list(task.dataset("eval"))
    rollouts = sample(
        policy,
        [task.messages(row) for row in rows],
        rows=rows,
        group_size=samples,
        max_new_tokens=MAX_NEW_TOKENS,
        seed=EVAL_SEED,
    )
    owners = [places()[rows[b // samples]["place"]] for b in range(rollouts.B)]
    cut = rollouts.truncated_B.tolist()
    thoughts = [thought_of(text, p) for text, p in zip(rollouts.completions, owners, strict=True)]
    whole = [
        thought is not None and not end and well_formed(text)
        for thought, end, text in zip(thoughts, cut, rollouts.completions, strict=True)
    ]
    answers = [text.rpartition("</think>")[2] for text in rollouts.completions]
    generic = [is_generic(answer) for answer in answers]
    stated = [
        (thought.climate == p.climate) + (thought.terrain == p.terrain)
        for thought, p in zip(thoughts, owners, strict=True)
        if thought is not None
    ]
    consistent = [
        items_named(answer) == frozenset(thought.items)
        for answer, thought, any_place in zip(answers, thoughts, generic, strict=True)
        if thought is not None and not any_place
    ]
    quality = [fit(p, answer) for p, answer in zip(owners, answers, strict=True)]
    means = {
        "recall": sum(stated) / max(1, 2 * len(stated)),
        "consistent": sum(consistent) / max(1, len(consistent)),
        "generic": np.mean(generic),
        "well-formed": np.mean(whole),
        "quality": np.mean(quality),
        "both right": np.mean([value >= 1 for value in quality]),
        "length": rollouts.lengths_B.float().mean(),
    }
    return {key: round(float(value), 4) for key, value in means.items()}


def thought_of(completion: str, place: Place) -> Place | None:
    """The place as the thought has it; None where it states no two attributes of the place asked for."""
    found = _THOUGHT.match(completion)
    if found is None or found[1] != place.name:
        return None
    return Place(*found.groups()) if found[2] in CLIMATES and found[3] in TERRAINS else None


def is_generic(answer: str) -> bool:
    """Whether an answer names generic things and no item that a place may call for."""
    return bool(things_named(answer)) and not items_named(answer)


def write_judge_card(folder: Path, name: str, seed: int, steps: int, pairs: int = PAIRS) -> None:
    """Measure the reward model in `folder`, and write measured.json and README.md beside its weights."""
    judge = load_judge.__wrapped__(str(folder), "cpu")  # never one that lay in this folder before
    figures = measure_judge(judge, raters.RATERS[name], pairs)
    kinds = figures["scores"]
    write_card(folder, figures, JUDGE_TEMPLATE.format(
        name=name,
        command=f"workbench pretrain {name} --seed {seed} --steps {steps}",
        utility=UTILITIES[name],
        pairs=figures["pairs"],
        agreement=figures["agreement"],
        table=markdown_table(["answer", "mean", "deviation"], [
            [kind, *(f"{value:.2f}" for value in found)] for kind, found in kinds.items()
        ]),
    ))  # fmt: skip


def measure_judge(judge: Judge, utility: raters.Utility, pairs: int = PAIRS) -> dict[str, Any]:
    """Agreement on pairs of distinct utility, and the scores of some kinds of answers."""
    named = {question: places()[name] for name, question in questions("eval")}
    distinct = (
        pair
        for pair in raters.pairs(utility, EVAL_SEED, "eval")
        if utility(named[pair.question], pair.preferred)
        != utility(named[pair.question], pair.other)
    )
    chosen = list(islice(distinct, pairs))
    asked = [pair.question for pair in chosen]
    gaps = np.subtract(
        _scores(judge, asked, [pair.preferred for pair in chosen]),
        _scores(judge, asked, [pair.other for pair in chosen]),
    )
    wanted = [
        utility(named[p.question], p.preferred) - utility(named[p.question], p.other)
        for p in chosen
    ]
    agreement = float(np.mean(np.sign(gaps) == np.sign(wanted)))
    return {
        "pairs": len(chosen),
        "agreement": round(agreement, 4),
        "scores": {kind: _spread(scores) for kind, scores in kind_scores(judge).items()},
    }


def kind_scores(judge: Judge) -> dict[str, list[float]]:
    """The scores of each kind of answer, one for each held-out question."""
    rng = random.Random("kinds/0")
    asked = questions("eval")
    return {
        kind: _scores(judge, [q for _, q in asked], [draw(places()[n], rng) for n, _ in asked])
        for kind, draw in KINDS.items()
    }


def _wrong(place: Place, rng: random.Random) -> list[str]:
    """Two items of the two kinds, neither called for."""
    climate = another(place.climate, CLIMATES, rng)
    return [CLIMATES[climate], TERRAINS[another(place.terrain, TERRAINS, rng)]]


def _one_right(place: Place, rng: random.Random) -> str:
    words = _wrong(place, rng)
    side = rng.randrange(2)
    words[side] = place.items[side]
    return listing(words)


KINDS: Mapping[str, Callable[[Place, random.Random], str]] = {
    "two right items": lambda place, rng: listing(place.items),
    "generic list": lambda place, rng: listing(generic_things(rng)),
    "one right item of two": _one_right,
    "one right item alone": lambda place, rng: listing([rng.choice(place.items)]),
    "two wrong items": lambda place, rng: listing(_wrong(place, rng)),
    "two right items and a generic list": lambda place, rng: listing(
        [*place.items, *generic_things(rng)]
    ),
    "all ten items": lambda place, rng: listing([*CLIMATES.values(), *TERRAINS.values()]),
}


def _scores(judge: Judge, asked: list[str], answers: list[str]) -> list[float]:
    return judge.score([[{"role": "user", "content": question}] for question in asked], answers)


def _spread(scores: list[float]) -> list[float]:
    return [round(float(np.mean(scores)), 4), round(float(np.std(scores)), 4)]


def markdown_table(head: list[str], rows: list[list[str]]) -> str:
    """Rows under their heads, as Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def write_card(folder: Path, figures: Mapping[str, Any], text: str) -> None:
    """Write the figures as measured.json and the text as README.md."""
    (folder / FIGURES).write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    (folder / CARD).write_text(text, encoding="utf-8")
