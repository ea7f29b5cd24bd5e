"""The tokenizer of a model, with what it may lack supplied."""

from __future__ import annotations

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from workbench.variants import WorkbenchError

THINK_TAGS = ("<think>", "</think>")
# For tokenizers without a chat template: the messages' text, one below the other.
PLAIN_TEMPLATE = (
    "{{ bos_token or '' }}{% for message in messages %}{{ message['content'] }}\n{% endfor %}"
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
