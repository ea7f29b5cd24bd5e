"""decode_native(): parts that memory holds change no row."""

import pytest
import torch
from transformers import AutoConfig

from workbench import native
from workbench.native import cache_bytes, rows_at_once
from workbench.rollout import sample
from workbench.static import decode_static

TEXTS = ("Make 24 from 3 8", "Compute 1", "Compute 12 + 3 * 4")
PROMPTS = [[{"role": "user", "content": text}] for text in TEXTS]


@pytest.mark.parametrize("at_once", [1, 4, 5])
@pytest.mark.parametrize("loop", ["prefixes", "static"])
def test_parts_draw_what_the_whole_draws(policy_of, monkeypatch, at_once, loop):
    policy = policy_of("qwen3")
    settings = {"group_size": 4, "max_new_tokens": 70, "seed": 9, "further_stops": (12,)}
    whole = sample(policy, PROMPTS, **settings)
    sizes = []
    run = decode_static if loop == "static" else native.decode

    def counted(model, asked, uniforms):
        sizes.append(asked.rows)
        assert len(asked.ids_PL) <= asked.rows
        return run(model, asked, uniforms)

    monkeypatch.setattr(native, "decode", counted)
    monkeypatch.setattr(native, "rows_at_once", lambda *_: at_once)
    parts = sample(policy, PROMPTS, **settings)
    assert max(sizes) == at_once and sum(sizes) == 12
    assert parts.completions == whole.completions
    assert torch.equal(parts.mask_BT, whole.mask_BT)
    for name in ("logprobs_BT", "entropies_BT", "log_peaks_BT"):
        torch.testing.assert_close(getattr(parts, name), getattr(whole, name), atol=1e-4, rtol=1e-4)


def test_what_a_row_takes_by_hand(policy_of, monkeypatch):
    # 28 layers, 2 key heads of 128 numbers, keys and values, 2 bytes each.
    shape = {"num_hidden_layers": 28, "num_key_value_heads": 2, "num_attention_heads": 12}
    config = AutoConfig.for_model("qwen2", hidden_size=1536, **shape)
    assert cache_bytes(config, 2) == 28 * 2 * 128 * 2 * 2 == 28_672
    model = policy_of().model
    row = 10 * cache_bytes(model.config, 4) + 32 * model.config.vocab_size
    assert cache_bytes(model.config, 4) == 2 * 2 * 2 * 16 * 4
    monkeypatch.setattr(native, "free_memory", lambda device: 15 * row)
    assert rows_at_once(model, 10, torch.device("cpu")) == 7  # half of what is free
    monkeypatch.setattr(native, "free_memory", lambda device: 0)
    assert rows_at_once(model, 10, torch.device("cpu")) == 1
