"""Stand-ins: random-weight models with the traits of the families that people train.

Two layers wide enough for NF4 (rows in whole blocks of 64), a byte-level BPE tokenizer trained here on the
shipped samples, the family's own special tokens, and a short chat template of ours in the family's form.
They are folders as the hub serves them, so what loads a stand-in loads the real thing; what they write is
noise.

Traits kept, each a usual cause of trouble: biases in q, k and v (Qwen2.5), normed q and k and heads wider
than hidden / heads (Qwen3), scaled rotary positions (Llama 3.2), an odd number of heads (SmolLM2), sliding
windows and scaled embeddings (Gemma 3); tied embeddings, but not in R1's; an embedding with more rows than
the tokenizer has tokens and an end token that is also the unknown one (Qwen2.5); no padding token (Llama);
padding by the end token (SmolLM2, R1's distillates); a prompt that opens the thinking (R1); several end
tokens in generation_config, of which the tokenizer names one.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedTokenizerFast,
)

from workbench.packaged import data_path

MERGED = 400  # tokens of the BPE; with more the stand-ins would not be small
_BODY = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
)
_ASK = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
_SYSTEM = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nYou help.<|im_end|>\n{% endif %}"
)
_NO_THOUGHT = (
    "{% if add_generation_prompt and enable_thinking is defined and not enable_thinking %}"
    "<think>\n\n</think>\n\n{% endif %}"
)
_LLAMA = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n"
    "{{ m['content'] }}<|eot_id|>{% endfor %}{% if add_generation_prompt %}<|start_header_id|>assistant"
    "<|end_header_id|>\n\n{% endif %}"
)
_R1 = (  # the prompt opens the thinking
    "{{ bos_token }}{% for m in messages %}{{ '<|Assistant|>' if m['role'] == 'assistant' else '<|User|>' }}"
    "{{ m['content'] }}{% endfor %}{% if add_generation_prompt %}<|Assistant|><think>\n{% endif %}"
)
_GEMMA = (
    "{{ bos_token }}{% for m in messages %}<start_of_turn>"
    "{{ 'model' if m['role'] == 'assistant' else m['role'] }}\n{{ m['content'] | trim }}<end_of_turn>\n"
    "{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)


@dataclass(frozen=True)
class Family:
    """What sets a family apart: its architecture, its tokens and how a conversation is written."""

    architecture: str
    shape: dict[str, Any]
    special: tuple[str, ...]  # in the order of their ids
    roles: dict[str, str | None]  # bos_token, eos_token, pad_token
    ends: tuple[str, ...]  # generation_config's eos_token_id
    template: str
    plain: tuple[str, ...] = ()  # added tokens that are not special, as Qwen3's <think>
    sampling: dict[str, float] = field(default_factory=dict)
    unused: int = 0  # rows of the embedding beyond the tokenizer


_HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2}
_CHATML = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_END = {"bos_token": None, "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
FAMILIES = {
    "qwen2.5": Family(
        "qwen2",
        _HEADS | {"rope_theta": 1e6, "rms_norm_eps": 1e-6},
        _CHATML,
        _END,
        ("<|im_end|>", "<|endoftext|>"),
        _SYSTEM + _BODY + _ASK,
        sampling={"temperature": 0.7, "top_p": 0.8, "top_k": 20, "repetition_penalty": 1.05},
        unused=23,
    ),
    "qwen3": Family(
        "qwen3",
        _HEADS | {"head_dim": 32, "rope_theta": 1e6, "rms_norm_eps": 1e-6},
        _CHATML,
        _END,
        ("<|im_end|>", "<|endoftext|>"),
        _BODY + _ASK + _NO_THOUGHT,
        plain=("<think>", "</think>"),
        sampling={"temperature": 0.6, "top_p": 0.95, "top_k": 20},
        unused=21,
    ),
    "r1-distill": Family(
        "qwen2",
        _HEADS | {"rope_theta": 1e4, "tie_word_embeddings": False},
        ("<|begin|>", "<|end|>", "<|User|>", "<|Assistant|>"),
        {"bos_token": "<|begin|>", "eos_token": "<|end|>", "pad_token": "<|end|>"},
        ("<|end|>",),
        _R1,
        plain=("<think>", "</think>"),
        sampling={"temperature": 0.6, "top_p": 0.95},
        unused=23,
    ),
    "llama3.2": Family(
        "llama",
        _HEADS
        | {
            "rope_parameters": {
                "rope_type": "llama3", "rope_theta": 5e5, "factor": 32.0, "low_freq_factor": 1.0,
                "high_freq_factor": 4.0, "original_max_position_embeddings": 64,
            }
        },
        ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>",
         "<|eom_id|>", "<|eot_id|>"),
        {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>", "pad_token": None},
        ("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"),
        _LLAMA,
        sampling={"temperature": 0.6, "top_p": 0.9},
    ),
    "smollm2": Family(
        "llama",
        {"hidden_size": 192, "num_attention_heads": 3, "num_key_value_heads": 1, "rope_theta": 1e5},
        _CHATML,
        {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "pad_token": "<|im_end|>"},
        ("<|im_end|>",),
        _SYSTEM + _BODY + _ASK,
    ),
    "gemma3": Family(
        "gemma3_text",
        _HEADS
        | {
            "head_dim": 32, "query_pre_attn_scalar": 32, "sliding_window": 8,
            "layer_types": ["sliding_attention", "full_attention"],
            "rope_parameters": {
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
                "full_attention": {"rope_type": "default", "rope_theta": 1e6},
            },
        },
        ("<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"),
        {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>"},
        ("<eos>", "<end_of_turn>"),
        _GEMMA,
        sampling={"top_k": 64, "top_p": 0.95},
    ),
}  # fmt: skip


def family_of(model: str) -> str:
    """The family whose stand-in takes the place of a hub name."""
    for start, family in (
        ("Qwen/Qwen2.5-", "qwen2.5"),
        ("Qwen/Qwen3-", "qwen3"),
        ("deepseek-ai/DeepSeek-R1-Distill-Qwen-", "r1-distill"),
        ("meta-llama/Llama-3.2-", "llama3.2"),
        ("HuggingFaceTB/SmolLM2-", "smollm2"),
        ("google/gemma-3-", "gemma3"),
    ):
        if model.startswith(start):
            return family
    raise KeyError(f"no stand-in for {model}")


@lru_cache(maxsize=1)
def _corpus() -> list[str]:
    paths = sorted(data_path("tasks").glob("*.sample.jsonl"))
    rows = [json.loads(line) for path in paths for line in path.read_text("utf-8").splitlines()]
    return [str(value) for row in rows for value in row.values()]


@lru_cache(maxsize=len(FAMILIES))
def tokenizer_of(name: str) -> PreTrainedTokenizerFast:
    """The family's tokens around a byte-level BPE of a few hundred merges."""
    family = FAMILIES[name]
    bpe = Tokenizer(BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = BpeTrainer(vocab_size=MERGED, initial_alphabet=alphabet, show_progress=False)
    bpe.train_from_iterator(_corpus(), trainer)
    bpe.add_special_tokens([AddedToken(text, special=True) for text in family.special])
    bpe.add_tokens([AddedToken(text, special=False, normalized=False) for text in family.plain])
    roles = {role: text for role, text in family.roles.items() if text is not None}
    made = PreTrainedTokenizerFast(tokenizer_object=bpe, model_max_length=4096, **roles)
    made.chat_template = family.template
    return made


def write_standin(name: str, folder: Path, seed: int = 1) -> str:
    """Write the family's stand-in into `folder` as the hub would serve it; the folder's name."""
    family, tokenizer = FAMILIES[name], tokenizer_of(name)
    ids = dict(zip(family.ends, tokenizer.convert_tokens_to_ids(list(family.ends)), strict=True))
    config = _config(family, tokenizer)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = _stirred(AutoModelForCausalLM.from_config(config))
    ends = list(ids.values())
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=ends if len(ends) > 1 else ends[0],
        pad_token_id=tokenizer.pad_token_id,
        **({"do_sample": True} | family.sampling if family.sampling else {}),
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def write_judge(name: str, folder: Path, seed: int = 2) -> str:
    """Write a random reward model of the family into `folder`; the folder's name."""
    family, tokenizer = FAMILIES[name], tokenizer_of(name)
    config = _config(family, tokenizer)
    config.num_labels = 1
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        _stirred(AutoModelForSequenceClassification.from_config(config)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@torch.no_grad()
def talkative(folder: str, token: str, loudness: float = 3.0) -> None:
    """Have the stand-in in `folder` write `token` in some of its completions."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model.get_output_embeddings().weight[tokenizer.convert_tokens_to_ids(token)] *= loudness
    model.save_pretrained(folder)


@torch.no_grad()
def _stirred(model: Any) -> Any:
    """Biases and norms off their 0 and 1, so that one left out is seen."""
    for parameter in model.parameters():
        if parameter.dim() == 1:
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


def _config(family: Family, tokenizer: PreTrainedTokenizerFast) -> Any:
    shape = {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "max_position_embeddings": 4096,
        # Peaked distributions make wrong positions and masks show in the tokens.
        "initializer_range": 0.2,
        "tie_word_embeddings": True,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    rows = len(tokenizer) + family.unused
    return AutoConfig.for_model(family.architecture, vocab_size=rows, **(shape | family.shape))
