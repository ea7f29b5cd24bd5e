"""Attention in the place of a model's: one query against torch's kernel, and always put back."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from workbench.attention import ONE_QUERY, attending, can_replace, one_query, refuse_unknown


@pytest.mark.parametrize("window", [None, 3])
def test_one_query_equals_torchs_attention_with_grouped_heads_and_a_mask(window):
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(5, 4, 1, 8, generator=generator)
    key, value = torch.randn(2, 5, 2, 7, 8, generator=generator)
    hidden = torch.zeros(5, 1, 1, 7)
    hidden[1, ..., :2] = -torch.inf  # the second row's padding
    found, _ = one_query(None, query, key, value, hidden, scaling=8**-0.5, sliding_window=window)
    seen = slice(None) if window is None else slice(-window, None)
    wanted = scaled_dot_product_attention(
        query, key[:, :, seen], value[:, :, seen], hidden[..., seen], enable_gqa=True
    )
    torch.testing.assert_close(found, wanted.transpose(1, 2))


def test_a_models_own_attention_is_put_back_whatever_happens(policy_of):
    model = policy_of().model
    usual = model.config._attn_implementation
    assert can_replace(model)
    with pytest.raises(ZeroDivisionError), attending(model, ONE_QUERY):
        assert model.config._attn_implementation == ONE_QUERY
        raise ZeroDivisionError
    assert model.config._attn_implementation == usual
    with attending(model, None):
        assert model.config._attn_implementation == usual


def test_an_argument_that_would_change_the_result_is_refused():
    refuse_unknown({"softcap": None, "is_causal": True})
    with pytest.raises(NotImplementedError, match="no softcap"):
        refuse_unknown({"softcap": 30.0})
