"""The tiny models' tokenizer: one fixed list of words, digits and signs, and a chat template.

Every word and digit is one token, with or without the space before it, so that a text costs few
tokens and decoding gives back exactly what was encoded. The three worlds, of sums, of places and of lines,
have a list each and share the rest. To teach the models of a world something further, add its words to the
list and run `workbench pretrain` with their names, which trains and ships them again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from workbench.tasks import lines, places

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PAD, BOS, END, UNKNOWN = "<|pad|>", "<|bos|>", "<|end|>", "<|unknown|>"
ROLES = ("<|system|>", "<|user|>", "<|assistant|>")
THINK, THOUGHT = "<think>", "</think>"

DIGITS = "0123456789"
SIGNS = " \n+-*/()=.,:;?!'\"<>[]"
WORDS = {  # family -> its words; a word may stand in several families
    "countdown": "Make from",
    "arithmetic": "Compute",
    "thinking": "hmm wait so maybe no",
    "answers": "answer",
}
PLACES_WORDS = {"questions": places.vocabulary()}
LINES_WORDS = {"instructions": lines.vocabulary()}

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)

# A word or one digit, with the space before it; else any single character.
_PIECES = r" ?[A-Za-z]+| ?[0-9]|[\s\S]"


def vocabulary(families: Mapping[str, str] = WORDS) -> dict[str, int]:
    """Token -> id, in a fixed order: specials, thinking marks, digits, signs, words."""
    words = list(dict.fromkeys(" ".join(families.values()).split()))
    tokens = [PAD, BOS, END, UNKNOWN, *ROLES, THINK, THOUGHT, *DIGITS]
    tokens += [f" {digit}" for digit in DIGITS] + list(SIGNS)
    tokens += words + [f" {word}" for word in words]
    return {token: index for index, token in enumerate(tokens)}


def build_tokenizer(families: Mapping[str, str] = WORDS) -> PreTrainedTokenizerFast:
    """The tokenizer of these words, with padding on the left as generation wants it."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.WordLevel(vocabulary(families), unk_token=UNKNOWN))
    core.pre_tokenizer = pre_tokenizers.Split(Regex(_PIECES), behavior="isolated")
    core.decoder = decoders.Fuse()
    core.add_special_tokens([PAD, BOS, END, UNKNOWN, *ROLES])
    # Not special: decoding that skips special tokens keeps the marks the checkers look for.
    core.add_tokens(
        [AddedToken(mark, special=False, normalized=False) for mark in (THINK, THOUGHT)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=END,
        unk_token=UNKNOWN,
        padding_side="left",
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=512,
    )
