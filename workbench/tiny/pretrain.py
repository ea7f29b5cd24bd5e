"""Pretraining of the tiny models, from nothing but a seed.

1. Draw demonstrations from the mixture, on problems of the train splits only.
2. Split each batch by length into parts, so that little is padding, and add up their gradients.
   (Batches of one length each would be cheaper still, but a batch of guesses, with few tokens, would
   weigh as much as one of long completions, and the model would guess four times too often.)
3. Minimise the cross-entropy of the completion's tokens (the prompt is context, not target), each
   token weighing the same.
4. Muon moves the layers' matrices, AdamW the embedding and the norms; the learning rate warms up,
   stays for a while, and falls to zero.
5. Write safetensors, config, tokenizer and a card with the mixture, the seed and the command.

All that is random comes from the seed and the number of threads is fixed, so that the same command
gives the same weights on the same machine, bit for bit.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from tqdm.auto import tqdm

from workbench.packaged import data_path
from workbench.tiny.card import measure, write_card
from workbench.tiny.corpus import Example, Mixture, examples
from workbench.tiny.tokenizer import END, build_tokenizer
from workbench.variants import WorkbenchError, lookup

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

MODELS = {  # the shipped models differ in nothing but the mixture
    "tiny-strong": Mixture(careful=0.45, rambling=0.52, guessing=0.03),
    "tiny-weak": Mixture(careful=0.13, rambling=0.15, guessing=0.72),
}

STEPS = 4000
SMOKE_STEPS = 20
BATCH = 64  # demonstrations per step
PARTS = 2  # of a batch, each of like length
MUON_RATE, ADAM_RATE, DECAY = 0.02, 0.004, 0.05
WARMUP, COOLDOWN = 0.02, 0.8  # shares of the steps
THREADS = 1  # of so small a model one thread makes more tokens a second than two
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
    steps: int = STEPS,
    batch: int = BATCH,
    smoke: bool = False,
    progress: bool = True,
) -> Path:
    """Train the model `name` of MODELS, measure it and save it with its card; the folder.

    Args:
        out: the model's folder; by default where the shipped model lies, which is replaced.
        smoke: a few steps and prompts only; without `out` the folder is a temporary one.
    """
    mixture = lookup(MODELS, "tiny model", name)
    if steps < 1 or batch < 1:
        raise WorkbenchError(f"steps is {steps} and batch is {batch}; give 1 or more of each.")
    steps = min(steps, SMOKE_STEPS) if smoke else steps
    folder = _folder(name, out, smoke)
    tokenizer = build_tokenizer()
    with fixed_threads(THREADS):
        model = train(mixture, tokenizer, seed, steps, batch, name if progress else None)
        folder.mkdir(parents=True, exist_ok=True)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        size = {"prompts": 2, "samples": 4} if smoke else {}
        figures = measure(folder, progress=progress, **size)
    write_card(folder, name, mixture, seed, steps, figures)
    return folder


def _folder(name: str, out: Path | str | None, smoke: bool) -> Path:
    if out is not None:
        return Path(out)
    return Path(tempfile.mkdtemp()) / name if smoke else data_path("models") / name


@contextlib.contextmanager
def fixed_threads(count: int) -> Iterator[None]:
    """`count` threads inside, whatever the machine: sums are then added in the same order."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def train(
    mixture: Mixture,
    tokenizer: PreTrainedTokenizerFast,
    seed: int,
    steps: int,
    batch: int,
    title: str | None,
) -> PreTrainedModel:
    """The training loop; `title` names the progress bar, None leaves it out."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build_model(tokenizer).train()
    optimizers = build_optimizers(model)
    schedules = [
        torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate_at(step, steps))
        for optimizer in optimizers
    ]
    bar = tqdm(total=steps, desc=title, unit="step", disable=title is None)
    tokens, mean_loss = 0, 0.0
    for index, parts in enumerate(islice(batches(mixture, tokenizer, seed, batch), steps)):
        targets = sum(part.targets for part in parts)
        loss = 0.0
        for part in parts:
            part_loss = completion_loss(model, part) / targets
            part_loss.backward()
            loss += part_loss.item()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            schedule.step()
            optimizer.zero_grad(set_to_none=True)
        tokens += sum(part.ids_BL.numel() for part in parts)
        mean_loss += (loss - mean_loss) / min(index + 1, 100)
        bar.update()
        bar.set_postfix(loss=f"{mean_loss:.3f}", tokens=f"{tokens / 1e6:.1f}M", refresh=False)
    bar.close()
    return model.eval()


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


def build_optimizers(model: PreTrainedModel) -> list[torch.optim.Optimizer]:
    """Muon for the layers' matrices, AdamW for the embedding and the norms."""
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    known = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in known]
    return [
        torch.optim.Muon(matrices, lr=MUON_RATE, weight_decay=DECAY),
        torch.optim.AdamW(others, lr=ADAM_RATE, weight_decay=0.0, betas=(0.9, 0.98)),
    ]


def rate_at(step: int, steps: int) -> float:
    """The factor on the learning rates: a ramp up, a plateau, a straight fall to zero."""
    up = (step + 1) / max(1.0, WARMUP * steps)
    down = (steps - step) / max(1.0, COOLDOWN * steps)
    return min(1.0, up, down)


def batches(
    mixture: Mixture, tokenizer: PreTrainedTokenizerFast, seed: int, size: int
) -> Iterator[list[Batch]]:
    """Endless batches of `size` demonstrations, each in up to PARTS parts of like length."""
    stream = examples(mixture, seed)
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
