"""A learned reward: a sequence classifier reads question and answer and says how good the answer is.

The judge is any classifier with one output that transformers has built in: shipped (reward-shortcut,
reward-fair), in a folder, or on the hub. It never sees the thinking, so thinking can earn reward only
through the answer that it leads to. Only safetensors are read and remote code is never run.

Source: reward on the final answer alone, START (arXiv 2603.20799) [A]; what a malformed completion gets [D].
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from workbench.rewards.classifying import conversation_ids, load_classifier, logits_of, room_of
from workbench.tasks.base import after_thinking, thinks
from workbench.variants import WorkbenchError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from workbench.rollout import Rollouts
    from workbench.tasks.base import Task

Messages = Sequence[dict[str, str]]
SQUASHES = ("none", "sigmoid")


@dataclass(frozen=True)
class Judge:
    """A classifier with one output, and its tokenizer."""

    model: Any
    tokenizer: Any
    name: str
    longest: int  # tokens that it reads

    def score(self, conversations: Sequence[Messages], answers: Sequence[str]) -> list[float]:
        """The raw score of each answer to its conversation; equal answers have equal scores."""
        ids = [self._encode(m, a) for m, a in zip(conversations, answers, strict=True)]
        return [outputs[0] for outputs in logits_of(self.model, ids)]

    def _encode(self, messages: Messages, answer: str) -> tuple[int, ...]:
        ids = conversation_ids(
            self.tokenizer, [*messages, {"role": "assistant", "content": answer}]
        )
        if len(ids) > self.longest:
            raise WorkbenchError(
                f"A question with its answer has {len(ids)} tokens, but the reward model {self.name!r} "
                f"reads {self.longest}; lower max_new_tokens or choose another reward model."
            )
        return tuple(ids)


@functools.lru_cache(maxsize=4)
def load_judge(name: str, device: str | torch.device = "cpu") -> Judge:
    """The reward model `name`, a shipped one, a folder or a hub name, on `device`; loaded once."""
    import torch
    from transformers import AutoConfig

    from workbench.loading import LOADING
    from workbench.sources import JUDGE, check_loadable, find_model
    from workbench.tokens import load_tokenizer

    with LOADING:
        source = find_model(name, JUDGE)
        check_loadable(source, name, JUDGE)
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
        if config.num_labels != 1:
            raise WorkbenchError(
                f"The model {name!r} has {config.num_labels} outputs; a reward model has one."
            )
        model = load_classifier(source, name, torch.device(device))
        tokenizer = load_tokenizer(source, name)
    if model.config.pad_token_id is None:
        model.config.pad_token_id = tokenizer.pad_token_id
    return Judge(model, tokenizer, name, room_of(model, tokenizer))


def learned(
    rollouts: Rollouts, task: Task, *, reward_model: str = "reward-shortcut", squash: str = "none"
) -> Tensor:
    """The score that a reward model gives the answer; it sees the question, never the thinking.

    A malformed completion, its thinking unclosed or closed twice or its answer empty, is not shown to the
    judge and gets the lowest score of its group; a group of such alone gets the lowest of the batch.
    """
    answers = answers_of(rollouts)
    shown = [b for b, answer in enumerate(answers) if answer is not None]
    conversations = [task.messages(rollouts.rows[b // rollouts.G]) for b in shown]
    judge = load_judge(reward_model, str(rollouts.logprobs_BT.device))
    scores_N = rollouts.logprobs_BT.new_tensor(
        judge.score(conversations, [answers[b] or "" for b in shown])
    )
    if squash == "sigmoid":
        scores_N = scores_N.sigmoid()
    if not shown:
        return rollouts.logprobs_BT.new_zeros(rollouts.P, rollouts.G)
    values_B = scores_N.new_full((rollouts.B,), float("inf"))
    values_B[shown] = scores_N
    values_PG = values_B.view(rollouts.P, rollouts.G)
    lowest_P1 = values_PG.amin(1, keepdim=True)
    lowest_P1 = lowest_P1.where(lowest_P1.isfinite(), scores_N.min())
    return values_PG.where(values_PG.isfinite(), lowest_P1)


def answers_of(rollouts: Rollouts) -> list[str | None]:
    """The answer in each completion, or None where it is malformed.

    A completion that never closes its thinking has no answer. Where neither prompts nor completions have a
    mark of thinking, the policy does not think, and all that it writes is answer; so it is after a prompt
    that has closed the thinking already, as templates do where thinking is off.
    """
    tagged = any(map(thinks, (*rollouts.prompts, *rollouts.completions)))
    closes_P = [tagged and not text.rstrip().endswith("</think>") for text in rollouts.prompts]
    return [
        (after_thinking(text) or None)
        if text.count("</think>") == closes_P[b // rollouts.G]
        else None
        for b, text in enumerate(rollouts.completions)
    ]


def bounds(arguments: dict[str, Any]) -> tuple[float, float]:
    """The range of the values: 0 to 1 if they are squashed, else any."""
    return (0.0, 1.0) if arguments["squash"] == "sigmoid" else (-float("inf"), float("inf"))
