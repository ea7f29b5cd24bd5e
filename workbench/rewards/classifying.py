"""What every reward that reads with a classifier shares: loading it, and running it over token rows.

Only safetensors are read and remote code is never run.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from workbench.variants import WorkbenchError

if TYPE_CHECKING:
    import torch

Tokens = tuple[int, ...]
BATCH_ROWS, BATCH_TOKENS = 256, 16_384  # of one forward pass, padding included


def logits_of(model: Any, rows: Sequence[Tokens]) -> list[list[float]]:
    """The classifier's outputs for each row of token ids, in batches of like length, without gradient.

    What is there several times is read once, so that equal rows have equal outputs to the last bit.
    """
    import torch

    found: dict[Tokens, list[float]] = {}
    for batch in batches(sorted(set(rows), key=lambda row: (len(row), row))):
        with torch.no_grad():
            found |= zip(batch, forward(model, batch).float().tolist(), strict=True)
    return [found[row] for row in rows]


def forward(model: Any, rows: Sequence[Tokens]) -> torch.Tensor:
    """The outputs for one batch, (N, labels); padded right, so that positions count from the first token."""
    import torch

    longest = max(map(len, rows))
    ids_NL = torch.full((len(rows), longest), model.config.pad_token_id)
    mask_NL = torch.zeros_like(ids_NL)
    for number, row in enumerate(rows):
        ids_NL[number, : len(row)] = torch.tensor(row)
        mask_NL[number, : len(row)] = 1
    device = model.device
    return model(input_ids=ids_NL.to(device), attention_mask=mask_NL.to(device)).logits


def batches(rows: Sequence[Tokens]) -> list[list[Tokens]]:
    """`rows`, shortest first, cut so that no batch has too many rows or tokens."""
    found: list[list[Tokens]] = []
    for row in rows:
        size = len(found[-1]) if found else BATCH_ROWS
        if size == BATCH_ROWS or (size + 1) * len(row) > BATCH_TOKENS:
            found.append([])
        found[-1].append(row)
    return found


def load_classifier(source: str, name: str, device: torch.device, **settings: Any) -> Any:
    """A sequence classifier, its weights at rest; `settings` go to transformers' from_pretrained.

    What it computes in goes by the device (`devices`), unless a `dtype` is among the settings.
    """
    from safetensors import SafetensorError
    from transformers import AutoModelForSequenceClassification

    from workbench.devices import compute_dtype
    from workbench.loading import quiet
    from workbench.sources import cannot_read, no_safetensors

    usual = {"dtype": compute_dtype(device)}
    try:
        with quiet():
            model = AutoModelForSequenceClassification.from_pretrained(
                source, use_safetensors=True, trust_remote_code=False, **(usual | settings)
            )
    except OSError as error:
        wanted = "safetensors" in str(error) and "connect" not in str(error)
        message = no_safetensors(name) if wanted else cannot_read(source, name)
        raise WorkbenchError(message) from error
    except SafetensorError as error:
        raise WorkbenchError(
            f"The weights of {name!r} are damaged ({error}); copy or download them again."
        ) from error
    except ValueError as error:
        raise WorkbenchError(
            f"transformers has no classifier of the architecture of {name!r}; choose another reward model."
        ) from error
    if "quantization_config" not in settings:
        model = model.to(device)
    return model.eval().requires_grad_(False)


def room_of(model: Any, tokenizer: Any) -> int:
    """The tokens that a classifier reads."""
    longest = getattr(model.config, "max_position_embeddings", None) or tokenizer.model_max_length
    return min(longest, tokenizer.model_max_length)


def conversation_ids(tokenizer: Any, messages: Sequence[dict[str, str]]) -> list[int]:
    """Token ids of a conversation in the tokenizer's own template; without one, of plain lines.

    Special tokens that an answer spells out are dropped: no answer can end its turn and speak for others.
    """
    from workbench.tokens import PLAIN_TEMPLATE

    said = [
        message | {"content": _without_specials(tokenizer, message["content"])}
        if message["role"] == "assistant"
        else message
        for message in messages
    ]
    plain = tokenizer.chat_template == PLAIN_TEMPLATE
    if plain:
        text = "\n".join(message["content"] for message in said)
    else:
        text = tokenizer.apply_chat_template(said, tokenize=False)
    return tokenizer.encode(text, add_special_tokens=plain)


def _without_specials(tokenizer: Any, text: str) -> str:
    specials = _specials(tokenizer)
    while specials.search(text):  # what is left on both sides may make up another
        text = specials.sub("", text)
    return text


@functools.lru_cache(maxsize=8)
def _specials(tokenizer: Any) -> re.Pattern[str]:
    """The tokenizer's special tokens as they are spelled; the pattern of none matches nowhere."""
    added = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    spelled = sorted(added | set(tokenizer.all_special_tokens), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, spelled)) or r"(?!)")
