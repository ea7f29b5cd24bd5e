"""Packing by hand; that it gives the padded pass's values and gradients is in test_rollout."""

import pytest
import torch

from workbench.cache import prefill
from workbench.packing import pack, shared_prefill


def test_packing_keeps_each_distinct_prefix_once():
    prompt_ids = torch.tensor([[0, 7], [8, 9]])
    prompt_mask = torch.tensor([[False, True], [True, True]])
    ids = torch.tensor([[5, 6, 2], [5, 6, 4], [5, 3, 0], [5, 6, 2]])
    packing = pack(
        prompt_ids, prompt_mask, torch.tensor([0, 0, 0, 1]), ids, torch.tensor([3, 3, 2, 3])
    )
    # Prompts 7 and 8 9; then, as inputs: 5 after either prompt, 5 6 after either. The 3 is a last token.
    assert packing.ids_U.tolist() == [7, 8, 9, 5, 5, 6, 6]
    assert packing.positions_U.tolist() == [0, 0, 1, 1, 2, 2, 3]
    assert packing.keep_C.tolist() == [0, 2, 3, 4, 5, 6]
    assert packing.context_NT.tolist() == [[0, 2, 4], [0, 2, 4], [0, 2, 0], [1, 3, 5]]


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3_text"])
def test_prompts_that_begin_alike_are_run_as_if_alone(policy_of, family):
    model = policy_of(family).sampler()
    prompts = [[1, 5, 7, 9, 4, 4, 6, 8], [1, 5, 7, 9], [1, 5, 8], [3], [1, 5, 7, 9, 4, 9, 2]]
    ids = torch.zeros(5, 8, dtype=torch.long)
    mask = torch.zeros(5, 8, dtype=torch.bool)
    for row, tokens in enumerate(prompts):
        ids[row, -len(tokens) :], mask[row, -len(tokens) :] = torch.tensor(tokens), True
    with torch.no_grad():
        wanted, old = prefill(model, ids, mask)
        found, new = shared_prefill(model, ids, mask)
    assert torch.allclose(found, wanted, atol=1e-4)
    assert len(new.layers) == len(old.layers) == 2
    for mine, theirs in zip(new.layers, old.layers, strict=True):
        for name in ("keys", "values"):
            a, b = (getattr(x, name).transpose(1, 2)[mask] for x in (mine, theirs))
            assert torch.allclose(a, b, atol=1e-4)
