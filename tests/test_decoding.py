"""The uniforms of a row; what the loop over prefixes draws with them is in test_rollout and test_cache."""

import torch

from workbench.decoding import DRAWS, Recorded, Request, Uniforms, decode

SETTINGS = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}


def test_uniforms_are_the_generators_own_block_by_block():
    uniforms = Uniforms(torch.Generator().manual_seed(3), 5)
    second, first = uniforms(1), uniforms(0)
    generator = torch.Generator().manual_seed(3)
    for block in (first, second):
        wanted = torch.rand(DRAWS, 5, generator=generator, dtype=torch.float64)
        assert torch.equal(block, wanted)
    assert torch.equal(uniforms(0), first)


def test_only_the_blocks_that_are_needed_are_drawn(policy_of):
    policy = policy_of()
    ids_PL, mask_PL = policy.encode(["Make 24 from 3 8"])
    generator, again = (torch.Generator().manual_seed(1) for _ in range(2))
    uniforms = Uniforms(generator, 2)
    stops = torch.arange(policy.model.config.vocab_size)  # every token ends
    owners_B, limits_B = torch.zeros(2, dtype=torch.long), torch.tensor([100, 100])
    asked = Request(ids_PL, mask_PL, owners_B, limits_B, stops, SETTINGS)
    made = decode(policy.sampler(), asked, uniforms)
    assert made.mask_BT.sum(1).tolist() == [1, 1]
    torch.rand(DRAWS, 2, generator=again, dtype=torch.float64)
    assert torch.equal(generator.get_state(), again.get_state())


def test_an_empty_record_has_a_row_for_each_of_five_statistics():
    made = Recorded.empty(3, 4, torch.device("cpu"))
    assert made.statistics_5BT.shape == (5, 3, 4) and not made.mask_BT.any()
