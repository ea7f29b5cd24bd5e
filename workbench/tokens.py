"""The tokenizer of a model with what it may lack supplied, and how its chat template is used.

Models write their thoughts between tags of their own. What the rest of the package sees is THINK_TAGS:
`Policy.decode` puts them in place of the model's own. A template may also open the thought itself, at the
end of the prompt (as DeepSeek-R1's distilled models have it); a completion then begins inside it.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from typing import NamedTuple

from jinja2.exceptions import TemplateError
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from workbench.variants import WorkbenchError, unknown

Messages = Sequence[dict[str, str]]

THINKING = ("auto", "on", "off")
# The variables by which templates are told to think or not: Qwen3's, and Granite's and DeepSeek's.
SWITCHES = ("enable_thinking", "thinking")
# For tokenizers without a chat template: the messages' text, one below the other.
PLAIN_TEMPLATE = (
    "{{ bos_token or '' }}{% for message in messages %}{{ message['content'] }}\n{% endfor %}"
)
_MARK = "0a1b"  # stands for an answer where a template is looked at


class Tags(NamedTuple):
    """What opens and what closes a thought."""

    open: str
    close: str


THINK_TAGS = Tags("<think>", "</think>")
# In the order in which they are looked for, after THINK_TAGS.
OTHER_TAGS = (
    Tags("<thinking>", "</thinking>"),
    Tags("<reasoning>", "</reasoning>"),
    Tags("<thought>", "</thought>"),
    Tags("[THINK]", "[/THINK]"),
    Tags("<|begin_of_thought|>", "<|end_of_thought|>"),
    Tags("<|START_THINKING|>", "<|END_THINKING|>"),
    Tags("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"),
)


def load_tokenizer(source: str, name: str) -> PreTrainedTokenizerBase:
    """The tokenizer; a missing chat template or padding token is supplied."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise WorkbenchError(
            f"The model {name!r} comes without a tokenizer that can be read; "
            "put its tokenizer.json and tokenizer_config.json beside the weights."
        ) from error
    if tokenizer.chat_template is None:
        tokenizer.chat_template = PLAIN_TEMPLATE
    if tokenizer.pad_token_id is None:
        # Padding is always masked, so any token will do.
        tokenizer.pad_token_id = tokenizer.eos_token_id or 0
    return tokenizer


# ------------------------------------------------------------------ prompts


def template_of(tokenizer: PreTrainedTokenizerBase) -> str:
    """The text of the chat template that is used without tools."""
    return str(tokenizer.get_chat_template())


def check_thinking(tokenizer: PreTrainedTokenizerBase, name: str, thinking: str) -> None:
    """Refuse to switch what the chat template has no switch for: with one, on and off differ."""
    if thinking not in THINKING:
        raise WorkbenchError(unknown("thinking", thinking, THINKING))
    if thinking == "auto":
        return
    asked = [{"role": "user", "content": _MARK}]
    if render(tokenizer, asked, name, "on") == render(tokenizer, asked, name, "off"):
        raise WorkbenchError(
            f"thinking is {thinking!r}, but the chat template of {name!r} has no switch for it "
            f"({' or '.join(SWITCHES)}); set thinking to 'auto'."
        )


def render(
    tokenizer: PreTrainedTokenizerBase, messages: Messages, name: str, thinking: str = "auto"
) -> str:
    """The prompt of a conversation, up to where the model's answer begins.

    Where the template refuses a system message, or leaves it out, its text goes before the first message of
    the user, as Gemma's own template has it.
    """
    messages = [dict(message) for message in messages]
    has_system = len(messages) > 1 and messages[0]["role"] == "system"
    try:
        text = _filled(tokenizer, messages, thinking)
        if not has_system or messages[0]["content"].strip() in text:
            return text
    except (TemplateError, TypeError) as error:
        if not has_system:
            raise _refused(name, error) from error
    system, first, *others = messages
    folded = first | {"content": f"{system['content']}\n\n{first['content']}"}
    try:
        return _filled(tokenizer, [folded, *others], thinking)
    except (TemplateError, TypeError) as error:
        raise _refused(name, error) from error


def _filled(tokenizer: PreTrainedTokenizerBase, messages: Messages, thinking: str) -> str:
    switches = {} if thinking == "auto" else dict.fromkeys(SWITCHES, thinking == "on")
    return str(
        tokenizer.apply_chat_template(
            list(messages), tokenize=False, add_generation_prompt=True, **switches
        )
    )


def _refused(name: str, error: Exception) -> WorkbenchError:
    return WorkbenchError(
        f"The chat template of {name!r} refuses the task's messages: {error}. Give the task messages that "
        "it takes (most take a system, then a user message), or the model another chat_template.jinja."
    )


def turn_end(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The added token by which the chat template ends an answer; None where it ends in plain text.

    generation_config of some models names only the end of a text, such as <|endoftext|>, and not this.
    """
    asked = [{"role": "user", "content": "a"}, {"role": "assistant", "content": _MARK}]
    try:
        text = str(tokenizer.apply_chat_template(asked, tokenize=False))
    except (TemplateError, TypeError):
        return None
    after = text.rpartition(_MARK)[2].strip() if _MARK in text else ""
    ids = tokenizer.encode(after, add_special_tokens=False) if after else []
    return ids[0] if ids and ids[0] in tokenizer.added_tokens_decoder else None


# ------------------------------------------------------------------ thoughts


def find_tags(tokenizer: PreTrainedTokenizerBase, given: str = "auto") -> Tags:
    """The tags of the model's thoughts: as given ("OPEN CLOSE"), or found in vocabulary and template."""
    if given != "auto":
        parts = given.split()
        if len(parts) != 2 or parts[0] == parts[1]:
            raise WorkbenchError(
                f"think_tags is {given!r}; give the opening and the closing tag with a space between, such "
                "as '<think> </think>', or 'auto'."
            )
        return Tags(*parts)
    known, template = tokenizer.get_vocab(), template_of(tokenizer)
    pairs = (THINK_TAGS, *OTHER_TAGS)
    for tags in pairs:
        if tags.close in known:
            return tags
    return next((tags for tags in pairs if tags.open in template), THINK_TAGS)


def opens_thought(prompt: str, tags: Tags) -> bool:
    """Whether the prompt ends inside a thought that the template has opened."""
    return prompt.rstrip().endswith(tags.open)


def closes_thought(prompt: str, tags: Tags) -> bool:
    """Whether the prompt ends behind a thought that the template has closed, so that nobody is to think."""
    return prompt.rstrip().endswith(tags.close)


def in_common_tags(text: str, tags: Tags) -> str:
    """`text` with THINK_TAGS in place of the model's own."""
    if tags == THINK_TAGS:
        return text
    return text.replace(tags.open, THINK_TAGS.open).replace(tags.close, THINK_TAGS.close)


def completing(
    tokenizer: PreTrainedTokenizerBase, rows: Sequence[Sequence[int]], wanted: str
) -> list[list[int]]:
    """The places in each row of the tokens with which `wanted` becomes complete in the text.

    Such a token may carry text beyond it, as `>\\n` does where `</think>` is wanted.
    """
    plain = {"skip_special_tokens": False, "clean_up_tokenization_spaces": False}
    texts = tokenizer.batch_decode([list(row) for row in rows], **plain)
    found = []
    for row, text in zip(rows, texts, strict=True):

        def complete(length: int, row: Sequence[int] = row) -> int:
            return str(tokenizer.decode(list(row[:length]), **plain)).count(wanted)

        # A longer beginning of the row holds no fewer, so each place is found by halving.
        lengths, counts = range(len(row) + 1), range(1, text.count(wanted) + 1)
        places = {bisect.bisect_left(lengths, count, key=complete) - 1 for count in counts}
        found.append(sorted(places))
    return found
