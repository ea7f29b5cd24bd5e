"""Training of the reward models on the raters' preferences.

A stock Llama classifier with one output reads a question and an answer as a conversation, never any
thinking. For pairs of answers of which the raters preferred the first, it minimises

    -log sigmoid(s1 - s2) + 0.01 (s1 + s2)^2

the loss of Bradley and Terry (as in Ouyang et al. 2022, arXiv 2203.02155, equation 1), and a small pull on
the pair's mean to 0, which the first term leaves free.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING

import torch

from workbench.tiny.descent import descend
from workbench.tiny.raters import Pair, Utility, pairs

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

SETTINGS = (2000, 64)  # steps, and pairs in each
RATE = 0.005  # of Muon; so noisy a signal wants smaller steps than cross-entropy does
PARTS = 4  # of a batch, each of like length, so that little is padding
CENTRING = 0.01


def train_judge(
    utility: Utility,
    tokenizer: PreTrainedTokenizerFast,
    seed: int,
    steps: int,
    batch: int,
    title: str | None,
) -> PreTrainedModel:
    """A reward model of these raters; `title` names the progress bar, None leaves it out."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build_judge(tokenizer).train()
    stream = pairs(utility, seed)

    def losses() -> Iterator[torch.Tensor]:
        yield preference_loss(*pair_scores(model, tokenizer, list(islice(stream, batch))))

    return descend(model, losses, steps, title, RATE)


def build_judge(tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    """A stock Llama classifier with one output and 0.36 million parameters."""
    from transformers import LlamaConfig, LlamaForSequenceClassification

    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=96,
        intermediate_size=288,
        num_hidden_layers=3,
        num_attention_heads=3,
        num_key_value_heads=3,
        max_position_embeddings=tokenizer.model_max_length,
        initializer_range=0.04,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        num_labels=1,
        use_cache=False,
    )
    return LlamaForSequenceClassification(config)


def preference_loss(preferred_B: torch.Tensor, other_B: torch.Tensor) -> torch.Tensor:
    """The mean loss of the scores of preferred and other answers."""
    ranking_B = torch.nn.functional.softplus(other_B - preferred_B)
    return (ranking_B + CENTRING * (preferred_B + other_B) ** 2).mean()


def pair_scores(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, chunk: Sequence[Pair]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores of the preferred and of the other answers, each (B,)."""
    asked = [(pair.question, pair.preferred) for pair in chunk]
    asked += [(pair.question, pair.other) for pair in chunk]
    scores = conversation_scores(model, tokenizer, asked)
    return scores[: len(chunk)], scores[len(chunk) :]


def conversation_scores(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, asked: Sequence[tuple[str, str]]
) -> torch.Tensor:
    """The score of each question with its answer, (B,)."""
    texts = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": question}, {"role": "assistant", "content": answer}],
            tokenize=False,
        )
        for question, answer in asked
    ]
    ids = tokenizer(texts, add_special_tokens=False)["input_ids"]
    order = sorted(range(len(ids)), key=lambda n: len(ids[n]))
    width = -(-len(ids) // PARTS)
    scores = [
        _forward(model, [ids[n] for n in order[start : start + width]], tokenizer.pad_token_id)
        for start in range(0, len(ids), width)
    ]
    return torch.cat(scores)[torch.tensor(order).argsort()]


def _forward(model: PreTrainedModel, rows: list[list[int]], pad: int) -> torch.Tensor:
    longest = max(map(len, rows))
    ids_BL = torch.tensor([row + [pad] * (longest - len(row)) for row in rows])
    return model(input_ids=ids_BL, attention_mask=ids_BL != pad).logits.squeeze(-1)
