"""Plan: what of a recipe decides its memory and time, with everything left open filled in.

The one place where the forecast reads a recipe. What a recipe lets the machine choose ("auto") is still
open here and is settled in `choosing`.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench.cards import Card
from workbench.recipe import Recipe
from workbench.recomputing import LARGE
from workbench.shapes import ModelShape
from workbench.sources import find_model
from workbench.tokens import load_tokenizer, render

SAMPLE = 64  # training prompts whose length is looked at
LETTERS = 3  # of text in one token, where there is no tokenizer to ask
TEMPLATE = 40  # tokens that a chat template adds, where there is no tokenizer to ask
UNSEEN = 256  # tokens of a prompt, where not even the prompts are here
EVAL_ROWS = 4096  # completions that an evaluation gives to be decoded together


@dataclass(frozen=True)
class Plan:
    """Sizes and choices of one run on one device."""

    quantize: str
    device: str  # cuda, mps or cpu
    compute_bytes: int  # of a number that the model computes with
    lora_rank: int
    lora_targets: str
    optimizer: str
    prompts: int
    group: int  # completions of each prompt, extra votes included
    prompt_tokens: int
    prompt_source: str  # how the line above is known
    new_tokens: int
    microbatch: int  # completions in one pass with gradient, at most
    token_limit: int  # tokens in one, at most, padding counted; 0: no limit
    decode_limit: int  # rows decoded together, at most; 0: no limit
    passes: int  # over each batch, with gradient
    reference: bool  # whether the base is run over the batch
    moving: bool  # whether the reference has an adapter of its own
    engine: str
    merged: bool  # whether a plain copy is sampled from
    checkpointing: bool
    eval_prompts: int  # decoded together in an evaluation
    eval_samples: int
    memory: int  # bytes of the whole card

    @property
    def rows(self) -> int:
        """Completions sampled together in a step."""
        return self.prompts * self.group

    @property
    def eval_rows(self) -> int:
        """Completions of an evaluation that are given to be decoded together."""
        return self.eval_prompts * self.eval_samples

    @property
    def pass_rows(self) -> int:
        """Completions in one pass with gradient, as many as the limits allow."""
        rows = min(self.microbatch, self.rows)
        while self.token_limit and rows > 1 and self.padded_tokens(rows) > self.token_limit:
            rows -= 1
        return rows

    @property
    def pass_prompts(self) -> int:
        """Prompts of those completions."""
        return -(-self.pass_rows // self.group)

    def padded_tokens(self, rows: int) -> int:
        """Tokens of a pass over `rows` completions as `microbatches` counts them."""
        return -(-rows // self.group) * self.prompt_tokens + rows * self.new_tokens

    @property
    def pass_tokens(self) -> int:
        """Tokens of such a pass, at most: no two completions begin alike, and all are as long as can be."""
        return self.pass_prompts * self.prompt_tokens + self.pass_rows * (self.new_tokens - 1)

    @property
    def batch_tokens(self) -> int:
        """Tokens of a whole batch, counted in the same way."""
        return self.prompts * self.prompt_tokens + self.rows * (self.new_tokens - 1)

    def replace(self, **changes: Any) -> Plan:
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)


def plan_of(
    recipe: Recipe, shape: ModelShape, card: Card, prompt_tokens: int | None = None
) -> Plan:
    """The plan of `recipe` on `card`. Without `prompt_tokens` a sample of the task's prompts is measured."""
    tokens, source = (
        (prompt_tokens, "given") if prompt_tokens is not None else prompt_length(recipe)
    )
    held_out = min(recipe.eval_prompts, max(1, EVAL_ROWS // recipe.eval_samples))
    checkpointing = recipe.gradient_checkpointing
    if checkpointing == "auto":
        large = shape.parameters >= LARGE and card.kind != "cpu" and shape.fused
        checkpointing = "on" if large else "off"
    return Plan(
        quantize=recipe.quantize,
        device=card.kind,
        compute_bytes=card.dtype.itemsize,
        lora_rank=recipe.lora_rank,
        lora_targets=recipe.lora_targets,
        optimizer=recipe.optimizer,
        prompts=recipe.prompts_per_step,
        group=recipe.group_size + recipe.extra_votes,
        prompt_tokens=tokens,
        prompt_source=source,
        new_tokens=recipe.max_new_tokens,
        microbatch=recipe.microbatch,
        token_limit=recipe.microbatch_tokens,
        decode_limit=0,
        passes=recipe.epochs,
        reference=recipe.beta > 0 and recipe.anchor != "none",
        moving=recipe.reference != "fixed",
        engine=recipe.engine,
        merged=recipe.merged != "never",
        checkpointing=checkpointing == "on",
        eval_prompts=held_out,
        eval_samples=recipe.eval_samples,
        memory=card.memory,
    )


def prompt_length(recipe: Recipe) -> tuple[int, str]:
    """Tokens of the longest of some training prompts, and how that is known; downloads nothing."""
    task = recipe.make_task()
    given = str(recipe.task_args.get("source", ""))
    if given and not Path(given).expanduser().exists():
        return UNSEEN, f"a guess: the prompts of {given} are not here"
    rows = task.dataset("train")
    messages = [task.messages(rows[i]) for i in range(min(SAMPLE, len(rows)))]
    source = find_model(recipe.model)
    if (Path(source) / "tokenizer_config.json").is_file():
        tokenizer = load_tokenizer(source, recipe.model)
        texts = [render(tokenizer, each, recipe.model, recipe.thinking) for each in messages]
        lengths = [len(tokenizer.encode(text, add_special_tokens=False)) for text in texts]
        return max(lengths), f"the longest of {len(lengths)}"
    letters = max(sum(len(m["content"]) for m in each) for each in messages)
    return -(-letters // LETTERS) + TEMPLATE, f"a guess: {LETTERS} letters a token"
