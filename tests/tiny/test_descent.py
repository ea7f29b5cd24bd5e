"""The descent of the tiny models: its rate, its two optimisers, and the loop."""

import pytest
import torch

from workbench.tiny.descent import build_optimizers, descend, fixed_threads, rate_at
from workbench.tiny.judges import build_judge
from workbench.tiny.tokenizer import PLACES_WORDS, build_tokenizer


def test_rate_warms_up_stays_and_falls_to_zero():
    rates = [rate_at(step, 1000) for step in range(1000)]
    assert rates[0] == pytest.approx(1 / 20)
    assert rates[20] == rates[200] == 1.0
    assert rates[600] == pytest.approx(0.5)
    assert rates[999] == pytest.approx(1 / 800)


def test_muon_moves_the_layers_matrices_and_nothing_else():
    model = build_judge(build_tokenizer(PLACES_WORDS))
    muon, adam = build_optimizers(model, rate=0.125)
    moved = {id(p) for group in muon.param_groups for p in group["params"]}
    names = {name for name, p in model.named_parameters() if id(p) in moved}
    assert len(names) == 3 * 7 and all("layers" in name for name in names)
    assert muon.param_groups[0]["lr"] == 0.125
    assert sum(len(group["params"]) for group in adam.param_groups) == len(
        [*model.parameters()]
    ) - len(names)


def test_losses_of_a_step_add_up():
    """Two losses a step, or their sum at once: the same weights."""

    class Line(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first = torch.nn.Linear(4, 4)
            self.last = torch.nn.Linear(4, 1)

        def forward(self, x):
            return self.last(self.first(x).tanh()).mean()

    found = []
    for split in (True, False):
        torch.manual_seed(0)
        model, (one, two) = Line(), torch.randn(2, 3, 4)

        def losses(model=model, one=one, two=two, split=split):
            if split:
                yield model(one)
                yield model(two)
            else:
                yield model(one) + model(two)

        descend(model, losses, steps=3, title=None)
        assert not model.training
        found.append([p.detach().clone() for p in model.parameters()])
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*found, strict=True))


def test_threads_are_fixed_inside_only():
    before = torch.get_num_threads()
    with fixed_threads(1):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before
