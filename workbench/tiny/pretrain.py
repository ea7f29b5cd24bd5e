"""Pretraining of the tiny policies, from nothing but a seed.

1. Draw demonstrations from the mixture, or from the guide's demonstrators, on problems of the train
   splits only.
2. Split each batch by length into parts, so that little is padding, and add up their gradients.
   (Batches of one length each would be cheaper still, but a batch of guesses, with few tokens, would
   weigh as much as one of long completions, and the model would guess four times too often.)
3. Minimise the cross-entropy of the completion's tokens (the prompt is context, not target), each
   token weighing the same.
4. Descend (see `descent`).
5. Write safetensors, config, tokenizer and a card with the mixture, the seed and the command.

All that is random comes from the seed and the number of threads is fixed, so that the same command
gives the same weights on the same machine, bit for bit.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from workbench.packaged import SHIPPED_MODELS, data_path
from workbench.tiny import advice_card, card, scribe_card
from workbench.tiny.advice import GUIDES, advice
from workbench.tiny.corpus import Example, Mixture, examples
from workbench.tiny.descent import MUON_RATE, THREADS, descend, fixed_threads
from workbench.tiny.judges import SETTINGS as JUDGE_SETTINGS
from workbench.tiny.judges import train_judge
from workbench.tiny.raters import RATERS
from workbench.tiny.scribes import SCRIBES, writing
from workbench.tiny.tokenizer import END, LINES_WORDS, PLACES_WORDS, WORDS, build_tokenizer
from workbench.variants import WorkbenchError, lookup

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

MODELS = {  # the models of the sums' world differ in nothing but the mixture
    "tiny-strong": Mixture(careful=0.45, rambling=0.52, guessing=0.03),
    "tiny-weak": Mixture(careful=0.13, rambling=0.15, guessing=0.72),
}

STEPS, GUIDE_STEPS = 4000, 1500
SCRIBE_STEPS = 3000
SMOKE_STEPS = 20
BATCH = 64  # demonstrations per step
PARTS = 2  # of a batch, each of like length
IGNORED = -100  # a label that is no target


@dataclass(frozen=True)
class Batch:
    """Right-padded demonstrations: token ids, and labels which are IGNORED off the completion."""

    ids_BL: torch.Tensor
    labels_BL: torch.Tensor

    @property
    def targets(self) -> int:
        """How many tokens are to be predicted."""
        return int((self.labels_BL != IGNORED).sum())


def pretrain(
    name: str = "tiny-strong",
    out: Path | str | None = None,
    *,
    seed: int = 0,
    steps: int | None = None,
    batch: int | None = None,
    smoke: bool = False,
    progress: bool = True,
) -> Path:
    """Train the model `name` of SHIPPED_MODELS, measure it and save it with its card; the folder.

    Args:
        out: the model's folder; by default where the shipped model lies, which is replaced.
        steps, batch: by default what the shipped model was made with.
        smoke: a few steps and prompts only; without `out` the folder is a temporary one.
    """
    usual = lookup({known: _settings(known) for known in SHIPPED_MODELS}, "tiny model", name)
    steps, batch = (usual[0] if steps is None else steps), (usual[1] if batch is None else batch)
    if steps < 1 or batch < 1:
        raise WorkbenchError(f"steps is {steps} and batch is {batch}; give 1 or more of each.")
    steps = min(steps, SMOKE_STEPS) if smoke else steps
    folder = _folder(name, out, smoke)
    tokenizer = build_tokenizer(_words(name))
    title = name if progress else None
    with fixed_threads(THREADS):
        if name in RATERS:
            model = train_judge(RATERS[name], tokenizer, seed, steps, batch, title)
        else:
            rate = None if name in SCRIBES else MUON_RATE
            shown = _demonstrations(name, seed)
            model = train(shown, tokenizer, seed, steps, batch, title, rate)
        folder.mkdir(parents=True, exist_ok=True)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        _measure(folder, name, seed, steps, smoke, progress)
    return folder


def _settings(name: str) -> tuple[int, int]:
    """Steps and batch that the shipped model was made with."""
    if name in RATERS:
        return JUDGE_SETTINGS
    if name in SCRIBES:
        return SCRIBE_STEPS, BATCH
    return (STEPS if name in MODELS else GUIDE_STEPS), BATCH


def _words(name: str) -> Mapping[str, str]:
    """The words of the model's world."""
    if name in SCRIBES:
        return LINES_WORDS
    return WORDS if name in MODELS else PLACES_WORDS


def _demonstrations(name: str, seed: int) -> Iterator[Example]:
    if name in SCRIBES:
        return writing(SCRIBES[name], seed)
    return examples(MODELS[name], seed) if name in MODELS else advice(GUIDES[name], seed)


def _measure(folder: Path, name: str, seed: int, steps: int, smoke: bool, progress: bool) -> None:
    """Measure the saved model, and write its figures and its card."""
    if name in MODELS:
        size: dict[str, Any] = {"prompts": 2, "samples": 4} if smoke else {}
        figures = card.measure(folder, progress=progress, **size)
        card.write_card(folder, name, MODELS[name], seed, steps, figures)
    elif name in SCRIBES:
        size = {"prompts": 2, "samples": 2} if smoke else {}
        scribe_card.write_scribe_card(folder, name, seed, steps, **size)
    elif name in GUIDES:
        size = {"samples": 2} if smoke else {}
        advice_card.write_guide_card(folder, name, seed, steps, **size)
    else:
        size = {"pairs": 64} if smoke else {}
        advice_card.write_judge_card(folder, name, seed, steps, **size)


def _folder(name: str, out: Path | str | None, smoke: bool) -> Path:
    if out is not None:
        return Path(out)
    return Path(tempfile.mkdtemp()) / name if smoke else data_path("models") / name


def train(
    demonstrations: Iterator[Example],
    tokenizer: PreTrainedTokenizerFast,
    seed: int,
    steps: int,
    batch: int,
    title: str | None,
    rate: float | None = MUON_RATE,
) -> PreTrainedModel:
    """The training loop; `title` names the progress bar, None leaves it out; `rate` is Muon's or None."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build_model(tokenizer).train()
    stream = batches(demonstrations, tokenizer, batch)

    def losses() -> Iterator[torch.Tensor]:
        parts = next(stream)
        targets = sum(part.targets for part in parts)
        for part in parts:
            yield completion_loss(model, part) / targets

    return descend(model, losses, steps, title, rate)


def build_model(tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    """A stock Llama of 0.8 million parameters; each linear layer's inputs fill whole NF4 blocks."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=tokenizer.model_max_length,
        initializer_range=0.04,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return LlamaForCausalLM(config)


def batches(
    stream: Iterator[Example], tokenizer: PreTrainedTokenizerFast, size: int
) -> Iterator[list[Batch]]:
    """Endless batches of `size` demonstrations, each in up to PARTS parts of like length."""
    width = -(-size // PARTS)
    while True:
        pairs = encode(tokenizer, list(islice(stream, size)))
        pairs.sort(key=lambda pair: len(pair[0]))
        yield [
            collate(pairs[start : start + width], tokenizer.pad_token_id)
            for start in range(0, size, width)
        ]


def encode(tokenizer: PreTrainedTokenizerFast, chunk: list[Example]) -> list[tuple[list[int], int]]:
    """Each demonstration's token ids and how many of them are prompt."""
    prompts = tokenizer.apply_chat_template(
        [item.messages for item in chunk], add_generation_prompt=True, tokenize=False
    )
    completions = [item.completion + END for item in chunk]
    prompt_ids = tokenizer(prompts, add_special_tokens=False)["input_ids"]
    completion_ids = tokenizer(completions, add_special_tokens=False)["input_ids"]
    return [(p + c, len(p)) for p, c in zip(prompt_ids, completion_ids, strict=True)]


def collate(pairs: list[tuple[list[int], int]], pad: int) -> Batch:
    """Pad on the right; causal attention keeps the padding out of what comes before it."""
    longest = max(len(ids) for ids, _ in pairs)
    ids_BL = torch.full((len(pairs), longest), pad)
    labels_BL = torch.full((len(pairs), longest), IGNORED)
    for row, (ids, prompt_length) in enumerate(pairs):
        ids_BL[row, : len(ids)] = torch.tensor(ids)
        labels_BL[row, prompt_length : len(ids)] = torch.tensor(ids[prompt_length:])
    return Batch(ids_BL, labels_BL)


def completion_loss(model: PreTrainedModel, batch: Batch) -> torch.Tensor:
    """Summed cross-entropy of the completions' tokens."""
    logits_BLV = model(input_ids=batch.ids_BL[:, :-1], use_cache=False).logits
    return torch.nn.functional.cross_entropy(
        logits_BLV.flatten(0, 1).float(),
        batch.labels_BL[:, 1:].flatten(),
        ignore_index=IGNORED,
        reduction="sum",
    )
