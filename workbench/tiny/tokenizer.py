"""The tiny models' tokenizer: one fixed list of words, digits and signs, and a chat template.

Every word and digit is one token, with or without the space before it, so that a text costs few
tokens and decoding gives back exactly what was encoded. To teach the models a further task family,
add its words to WORDS and run `workbench pretrain`, which trains and ships every model again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

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

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)

# A word or one digit, with the space before it; else any single character.
_PIECES = r" ?[A-Za-z]+| ?[0-9]|[\s\S]"


def vocabulary() -> dict[str, int]:
    """Token -> id, in a fixed order: specials, thinking marks, digits, signs, words."""
    words = list(dict.fromkeys(" ".join(WORDS.values()).split()))
    tokens = [PAD, BOS, END, UNKNOWN, *ROLES, THINK, THOUGHT, *DIGITS]
    tokens += [f" {digit}" for digit in DIGITS] + list(SIGNS)
    tokens += words + [f" {word}" for word in words]
    return {token: index for index, token in enumerate(tokens)}


def build_tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer, with padding on the left as generation wants it."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.WordLevel(vocabulary(), unk_token=UNKNOWN))
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
