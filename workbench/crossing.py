"""Cross-Generation: one model's thoughts put into another one's context, and that one answers.

    1. Every thinker writes thoughts to the same held-out questions.
    2. Every answerer continues every thought, in its own chat template, with `<think>` and `</think>` set
       around it. All answerers get the same thoughts; what one draws does not depend on the others.
    3. An answer is judged without its thought. S(a, b) is the mean score of thoughts of a with answers of b.
    4. Two further rows ask whether an answerer uses the thought at all: none, and another question's.

The evaluation is START's (arXiv 2603.20799 [A]: thoughts of one model, answers of answerers of differing
capability); its formulas, the controls and the protocol are derived [D].

A thinkers and controls, B answerers, P questions, S samples of each (thoughts times answers).
"""

from __future__ import annotations

import contextlib
import gc
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch

from workbench import gains
from workbench.continuation import CLOSE, OPEN, answer, answer_texts, think
from workbench.crossmap import NONE, OTHER
from workbench.crosstable import CrossGeneration, Texts
from workbench.devices import find_device
from workbench.gains import Array
from workbench.memory import note_post_pre
from workbench.models import Policy, load_policy
from workbench.recipe import Recipe
from workbench.rewards import REWARDS
from workbench.rewards.learned import load_judge
from workbench.tasks import make_task
from workbench.tasks.base import after_thinking, knows_truth
from workbench.variants import WorkbenchError

if TYPE_CHECKING:
    from workbench.trainer import State

CROSS_SEED = 20_240_601
ROWS = 4_096  # completions decoded together
Row = dict[str, Any]
Messages = Sequence[dict[str, str]]
Judge = Callable[[Sequence[Row], Sequence[Messages], Sequence[str]], Sequence[float]]
Found = TypeVar("Found")


@dataclass(frozen=True)
class Initial:
    """The model of a policy as it was before training: its adapter is off while it is used."""

    policy: Policy

    @property
    def name(self) -> str:
        """The model's own name."""
        return self.policy.name

    @contextlib.contextmanager
    def opened(self) -> Iterator[Policy]:
        """Inside this context the policy is the initial one; nothing is loaded."""
        with self.policy.holding(self.policy.base_adapter()):
            yield self.policy


def initial_of(policy: Policy) -> Initial:
    """The initial model of `policy`, for `cross_generation`: the same weights with the adapter off."""
    return Initial(policy)


Model = str | Policy | Initial


def cross_generation(
    thinkers: Mapping[str, Model] | Sequence[Model],
    answerers: Mapping[str, Model] | Sequence[Model],
    task: Any,
    *,
    prompts: int = 64,
    thoughts: int = 4,
    answers: int = 1,
    max_new_tokens: int = 64,
    temperature: float = 1.0,
    judge: Judge | None = None,
    seed: int = CROSS_SEED,
) -> CrossGeneration:
    """S(a, b) of every thinker with every answerer, and of two controls, on held-out questions.

    Args:
        thinkers: name -> model, or models alone, which go by their own names. A model is a Policy, the
            `initial_of` one, or what `load_policy` takes: that is loaded once, with the defaults there, and
            let go after its last use. Tokenizers and templates may differ: thoughts are passed as text.
        answerers: as `thinkers`; the same models or others.
        task: a task, or its name with default parameters.
        prompts: the first questions of the eval split that differ from each other; two or more.
        thoughts: of each thinker to each question. NONE has as many empty ones, and OTHER those of the first
            thinker to another question, the same for every call with this seed.
        answers: to each thought, by each answerer.
        max_new_tokens: limit of a thought, and of an answer by itself. A thought that never closes is cut
            there, used as it is and counted in `unclosed`.
        judge: `judge(rows, messages, completions)`, one score each; by default the task's checker.
    """
    task = make_task(task) if isinstance(task, str) else task
    thinking, answering = _named(thinkers, "thinkers"), _named(answerers, "answerers")
    rows, messages = _questions(task, prompts)
    shelf = _Shelf([*thinking.values(), *answering.values()])
    sizes = {"max_new_tokens": max_new_tokens, "temperature": temperature, "seed": seed}
    written: dict[str, Texts] = {}
    unclosed: dict[str, int] = {}
    for name, model in thinking.items():
        found = shelf.use(model, lambda policy: _thoughts(policy, messages, thoughts, **sizes))
        written[name], unclosed[name] = found
    first = next(iter(written.values()))
    written[NONE] = [[""] * thoughts for _ in rows]
    written[OTHER] = [first[other] for other in other_questions(len(rows), seed)]
    completions: dict[tuple[str, str], Texts] = {}
    for name, model in answering.items():
        by_thinker = shelf.use(
            model,
            lambda policy: {
                a: _answers(policy, messages, texts, answers, **sizes)
                for a, texts in written.items()
            },
        )
        completions |= {(a, name): texts for a, texts in by_thinker.items()}
    pairs = [(a, b) for a in written for b in answering]
    flat = [text for pair in pairs for texts in completions[pair] for text in texts]
    samples = thoughts * answers
    scores = _judged(judge, task, rows, messages, flat, samples)
    scores_ABPS = scores.reshape(len(written), len(answering), len(rows), samples)
    return CrossGeneration(
        tuple(written), tuple(answering), scores_ABPS, rows, completions, unclosed
    )


def post_pre(
    policy: Policy,
    task: Any,
    rows: Sequence[Row],
    *,
    samples: int,
    max_new_tokens: int,
    judge: Judge | None = None,
    seed: int = CROSS_SEED,
) -> dict[str, float]:
    """T_post + A_pre while training: the policy's thoughts, answered by itself and by the initial policy.

    eval/post_post is the mean score of the policy's own answers, eval/post_pre that of the initial policy's
    to the same thoughts, both with /low and /high over questions. With a `judge` of its own, and a task that
    knows the truth, eval/post_post_true and eval/post_pre_true are the task's scores of the same answers.
    """
    messages = [task.messages(row) for row in rows]
    texts: dict[bool, list[str]] = {False: [], True: []}  # by whether the initial policy answers
    for part, own_seed in _parts(len(rows), samples, seed):
        drawn = think(
            policy, messages[part], rows=list(rows[part]), group_size=samples,
            max_new_tokens=max_new_tokens, seed=own_seed, stats=False,
        )  # fmt: skip
        for initial in texts:
            found = answer(policy, drawn, seed=own_seed, initial=initial, stats=False)
            texts[initial] += found.completions
    judges = {"": judge}
    if judge is not None and knows_truth(task):
        judges["_true"] = None
    metrics: dict[str, float] = {}
    for ending, chosen in judges.items():
        scores = _judged(chosen, task, rows, messages, texts[False] + texts[True], samples)
        both_2PS = scores.reshape(2, len(rows), samples)
        for name, scores_PS in zip(("post_post", "post_pre"), both_2PS, strict=True):
            found = gains.mean_score(scores_PS)
            key = f"eval/{name}{ending}"
            metrics[key] = found.value
            if not ending:
                metrics |= {f"{key}/low": found.low, f"{key}/high": found.high}
    return metrics


def judge_of(recipe: Recipe, task: Any) -> Judge | None:
    """What a run's answers are judged by: the weighted learned reward it trains on; None: the task's score.

    As in training, a completion whose thinking is not closed just once, or whose answer is empty, is not
    shown to the reward model: it gets the lowest score of its question in the call, of the call where its
    question has no other, and 0 where the call has none.
    """
    weight = recipe.reward_weights().get("learned", 0.0) if "learned" in recipe.rewards else 0.0
    if not weight:
        if knows_truth(task):
            return None
        raise WorkbenchError(
            f"Task {recipe.task!r} has no answers to compare with, so cross_samples needs a judge; train on "
            "the reward 'learned', or set cross_samples to 0."
        )
    arguments = REWARDS["learned"].defaults | recipe.reward_args.get("learned", {})
    device = str(torch.empty(0, device=find_device(recipe.device)).device)  # with its number

    def judge(
        rows: Sequence[Row], messages: Sequence[Messages], completions: Sequence[str]
    ) -> list[float]:
        answers = [after_thinking(text) * (text.count(CLOSE) == 1) for text in completions]
        shown = [number for number, text in enumerate(answers) if text]
        found = load_judge(arguments["reward_model"], device).score(
            [messages[number] for number in shown], [answers[number] for number in shown]
        )
        values = np.array(found, float)
        if arguments["squash"] == "sigmoid":
            values = 0.5 * (1 + np.tanh(0.5 * values))  # the sigmoid, without overflow
        posed = [json.dumps(list(said)) for said in messages]
        lowest: dict[str, float] = {}
        for number, value in zip(shown, values, strict=True):
            lowest[posed[number]] = min(value, lowest.get(posed[number], value))
        floor = min(lowest.values(), default=0.0)
        scores = np.array([lowest.get(question, floor) for question in posed])
        scores[shown] = values
        return (weight * scores).tolist()

    return judge


def held_out_post_pre(state: State, recipe: Recipe, seed: int = CROSS_SEED) -> dict[str, float]:
    """`post_pre` of the policy over the recipe's held-out questions, judged as the recipe's rewards judge."""
    return post_pre(
        state.policy,
        state.task,
        state.eval_rows,
        samples=recipe.cross_samples,
        max_new_tokens=recipe.max_new_tokens,
        judge=judge_of(recipe, state.task),
        seed=seed,
    )


def crossed(state: State, recipe: Recipe) -> dict[str, float]:
    """The policy's thoughts to the held-out questions, answered by itself and by the initial policy.

    The state remembers what they are worth: a separation may switch on it.
    """
    found = held_out_post_pre(state, recipe)
    note_post_pre(state.memory, recipe, state.step, found["eval/post_pre"])
    return found


def other_questions(count: int, seed: int) -> list[int]:
    """For each question another one, each used once: a random cycle through all of them."""
    order = np.random.default_rng(seed).permutation(count)
    other = np.empty(count, int)
    other[order] = np.roll(order, 1)
    return other.tolist()


class _Shelf:
    """Models given by name are loaded when they are first used, and let go after their last use."""

    def __init__(self, models: Sequence[Model]) -> None:
        self._uses_left = Counter(model for model in models if isinstance(model, str))
        self._held: dict[str, Policy] = {}

    def use(self, model: Model, work: Callable[[Policy], Found]) -> Found:
        """What `work` makes of the model."""
        if isinstance(model, Initial):
            with model.opened() as policy:
                return work(policy)
        if not isinstance(model, str):
            return work(model)
        self._uses_left[model] -= 1
        if model not in self._held:
            self._held[model] = load_policy(model)
        try:
            return work(self._held[model])
        finally:
            if not self._uses_left[model]:
                del self._held[model]
                gc.collect()
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()


def _named(models: Mapping[str, Model] | Sequence[Model], kind: str) -> dict[str, Model]:
    """Name -> model, checked."""
    if isinstance(models, (str, Policy, Initial)) or not models:
        raise WorkbenchError(f"Give {kind} as a dictionary of name: model, or as a list of models.")
    if isinstance(models, Mapping):
        named = [(str(name), model) for name, model in models.items()]
    else:
        named = [(m.name if isinstance(m, (Policy, Initial)) else str(m), m) for m in models]
    found: dict[str, Model] = {}
    for name, model in named:
        if name in (NONE, OTHER) or name in found:
            raise WorkbenchError(
                f"{kind} holds the name {name!r} twice, or it is a control's; give a dictionary with another "
                "name for each model."
            )
        found[name] = model if isinstance(model, (Policy, Initial)) else str(model)
    return found


def _questions(task: Any, count: int) -> tuple[list[Row], list[Messages]]:
    """The first `count` questions of the eval split that differ, and their messages."""
    rows, messages = [], []
    for row in task.dataset("eval"):
        posed = task.messages(row)
        if posed not in messages:
            rows.append(row)
            messages.append(posed)
        if len(rows) >= count:
            break
    if len(rows) < 2:
        raise WorkbenchError(
            f"Cross-Generation needs two or more different questions, and there are {len(rows)}: one of its "
            "controls is the thought of another question. Give more prompts."
        )
    return rows, messages


def _parts(prompts: int, samples: int, seed: int) -> Iterator[tuple[slice, int]]:
    """The prompts that are decoded together, and a seed for each lot."""
    at_once = max(1, ROWS // samples)
    for number, start in enumerate(range(0, prompts, at_once)):
        yield slice(start, start + at_once), seed + number


def _thoughts(
    policy: Policy, messages: list[Messages], count: int, *, seed: int, **sizes: Any
) -> tuple[Texts, int]:
    """`count` thoughts of each question, without tags, and how many never closed."""
    found: Texts = []
    for part, own_seed in _parts(len(messages), count, seed):
        drawn = think(policy, messages[part], group_size=count, seed=own_seed, stats=False, **sizes)
        found += [drawn.texts_of(p) for p in range(drawn.P)]
    unclosed = sum(CLOSE not in text for texts in found for text in texts)
    bare = [[text.split(CLOSE)[0].removeprefix(OPEN) for text in texts] for texts in found]
    return bare, unclosed


def _answers(
    policy: Policy,
    messages: list[Messages],
    thoughts: Texts,
    count: int,
    *,
    seed: int,
    **sizes: Any,
) -> Texts:
    """Whole completions, for each question in the order thought, answer."""
    each = len(thoughts[0])
    found: Texts = []
    for part, own_seed in _parts(len(messages), each * count, seed):
        prompts = [posed for posed in messages[part] for _ in range(each)]
        given = [text for texts in thoughts[part] for text in texts]
        drawn = answer_texts(policy, prompts, given, per_thought=count, seed=own_seed, **sizes)
        for start in range(0, len(drawn), each):
            found.append([text for texts in drawn[start : start + each] for text in texts])
    return found


def _judged(
    judge: Judge | None,
    task: Any,
    rows: Sequence[Row],
    messages: Sequence[Messages],
    completions: Sequence[str],
    samples: int,
) -> Array:
    """One score for each completion; they stand question by question, `samples` of each, again and again."""
    owners = [number // samples % len(rows) for number in range(len(completions))]
    if judge is None:
        pairs = zip(owners, completions, strict=True)
        return np.array([float(task.score(rows[owner], text)) for owner, text in pairs])
    judged_rows, judged_messages = [rows[p] for p in owners], [messages[p] for p in owners]
    scores = np.array(list(judge(judged_rows, judged_messages, completions)), float)
    if scores.shape != (len(completions),) or not np.isfinite(scores).all():
        raise WorkbenchError(
            f"The judge gave {scores.size} scores for {len(completions)} completions, or some that are not "
            "finite; return one finite number for each."
        )
    return scores
