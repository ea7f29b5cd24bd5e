"""Packing by hand; that it gives the padded pass's values and gradients is in test_rollout."""

import torch

from workbench.packing import pack


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
