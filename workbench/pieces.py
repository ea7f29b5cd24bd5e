"""The text of each token, such that the texts of a completion's tokens make up its text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

HALF = "\ufffd"  # stands for bytes that are no whole character yet
CONTEXT = 4  # tokens before a piece that are decoded with it; a space may depend on them


def pieces(tokenizer: Any, rows: Sequence[Sequence[int]]) -> list[list[str]]:
    """The text of every token, special ones included; joined they are `tokenizer.decode` of the row.

    Mostly that is each token decoded by itself. It is not where a character is spread over several tokens
    (the last of them then has it, the others are empty) or where a token's space depends on its neighbour.
    """
    alone = {i: _decode(tokenizer, [i]) for i in {i for row in rows for i in row}}
    whole = tokenizer.batch_decode(
        [list(row) for row in rows], skip_special_tokens=False, clean_up_tokenization_spaces=False
    )
    found = []
    for row, text in zip(rows, whole, strict=True):
        simple = [alone[i] for i in row]
        found.append(simple if "".join(simple) == text else _in_context(tokenizer, row, text))
    return found


def _in_context(tokenizer: Any, row: Sequence[int], text: str) -> list[str]:
    """Each token's piece of `text`: what it adds to those before it, once its characters are whole."""
    found: list[str] = []
    done = start = 0  # characters of `text` that have their token; the token from which is decoded
    shown = ""  # the text from `start` to the token at hand
    for end in range(1, len(row) + 1):
        now = _decode(tokenizer, row[start:end])
        piece = "" if now.endswith(HALF) else now[len(shown) :]
        fits = now.startswith(shown) and text.startswith(piece, done)
        found.append(piece if fits else "")
        if found[-1]:
            done += len(piece)
            start = max(start, end - CONTEXT)
            shown = _decode(tokenizer, row[start:end])
    if row:
        found[-1] += text[done:]  # bytes that never became a character
    return found


def _decode(tokenizer: Any, ids: Sequence[int]) -> str:
    return tokenizer.decode(
        list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False
    )
