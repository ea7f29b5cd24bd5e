"""Filters, draws and statistics of one step's logits: by hand, by autograd and against transformers."""

import numpy as np
import pytest
import torch
from transformers import MinPLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from workbench.devices import exact_device
from workbench.sampling import draw, filter_logits, statistics


@pytest.mark.parametrize(
    "settings",
    [
        {"top_k": 4},
        {"top_p": 0.6},
        {"min_p": 0.2},
        {"top_p": 0.01},
        {"temperature": 0.5, "top_k": 9, "top_p": 0.8, "min_p": 0.05},
    ],
)
def test_filters_equal_those_of_transformers(settings):
    logits = torch.randn(50, 33, generator=torch.Generator().manual_seed(0)) * 2
    theirs = logits / settings.get("temperature", 1.0)
    if "top_k" in settings:
        theirs = TopKLogitsWarper(settings["top_k"])(None, theirs)
    if "top_p" in settings:
        theirs = TopPLogitsWarper(settings["top_p"])(None, theirs)
    if "min_p" in settings:
        theirs = MinPLogitsWarper(settings["min_p"])(None, theirs)
    assert torch.isinf(theirs).any()
    assert torch.allclose(filter_logits(logits, **settings), theirs)


def test_draw_inverts_the_cumulative_distribution():
    logits = torch.tensor([0.0, 0.1, 0.2, 0.3, 0.4, 0.0]).log().expand(6, 6)
    uniforms = torch.tensor([0.0, 0.05, 0.15, 0.45, 0.65, 1 - 2**-53], dtype=torch.float64)
    # Cumulative: 0, .1, .3, .6, 1, 1; tokens of probability 0 are never drawn, not even at 0.
    assert draw(logits, torch.arange(6), uniforms).tolist() == [1, 1, 2, 3, 4, 4]


def test_fp64_is_worked_on_where_it_exists():
    assert exact_device(torch.device("mps")).type == "cpu"
    assert exact_device(torch.device("cuda", 1)) == torch.device("cuda", 1)


def test_statistics_by_hand():
    z = torch.tensor([[0.0, 0.0, 0.0, 0.0], [np.log(3.0), 0.0, -np.inf, -np.inf]])
    found = statistics(z, torch.tensor([0, 1, 1]), torch.tensor([2, 0, 1]))
    assert found[0, 2] == pytest.approx(np.log(0.25))
    logprob, entropy, collision, certainty, peak = found[:, :2]
    # Uniform over four; then 3/4 and 1/4, entropy ln 4 - (3/4) ln 3, collision 9/16 + 1/16.
    assert logprob.tolist() == pytest.approx([-np.log(4), np.log(0.75)])
    assert entropy.tolist() == pytest.approx([np.log(4), np.log(4) - 0.75 * np.log(3)])
    assert collision.tolist() == pytest.approx([np.log(0.25), np.log(0.625)])
    assert peak.tolist() == pytest.approx([np.log(0.25), np.log(0.75)])
    assert certainty[0] == pytest.approx(0.0, abs=1e-6)
    assert certainty[1] == np.inf
