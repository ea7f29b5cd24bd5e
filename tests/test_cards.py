"""Cards by size and by name, and this machine's measured."""

import pytest
import torch

from workbench.cards import GIB, SHEETS, card_here, measured_speeds, named_card
from workbench.variants import WorkbenchError


def test_a_card_of_so_many_gib_has_no_known_speed():
    for memory in (16, "16", 16.0):
        card = named_card(memory)
        assert (card.free, card.kind) == (16 * GIB, "cuda")
        assert (card.bandwidth, card.flops) == (0, 0)


def test_known_cards_by_name():
    card = named_card("t4")
    assert card is SHEETS["T4"]
    assert (card.bandwidth, card.flops, card.dtype) == (320e9, 65e12, torch.float16)
    # By hand: reading the whole memory of an A100-80 takes 42 ms.
    a100 = named_card("A100-80")
    assert a100.memory / a100.bandwidth == pytest.approx(0.0421, abs=1e-4)
    assert all(1e11 < c.bandwidth < 1e13 and 1e13 < c.flops < 2e15 for c in SHEETS.values())


@pytest.mark.parametrize("memory", ["T44", "0", -3, "nan"])
def test_other_memory_is_refused(memory):
    with pytest.raises(WorkbenchError, match="memory"):
        named_card(memory)


def test_the_cpu_here_is_measured():
    card = card_here("cpu")
    assert card.kind == "cpu"
    assert 0 < card.free <= card.memory
    assert card.source == "measured here"
    # The slowest machine that runs this, and more than any CPU does.
    assert 1e8 < card.bandwidth < 2e12
    assert 1e8 < card.flops < 1e14
    assert card_here("cpu", measure=False).bandwidth == 0


def test_speeds_are_work_over_the_shortest_time(monkeypatch):
    """Each call of the clock is 0.5 s later: a copy of 32 MiB moves 64 in that, a product has 2 n^3 FLOPs."""
    ticks = iter(range(1000))
    monkeypatch.setattr("workbench.cards.time.perf_counter", lambda: next(ticks) / 2)
    assert measured_speeds(torch.device("cpu"), torch.float32) == (
        2 * 2**25 / 0.5,
        2 * 768**3 / 0.5,
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_here_is_named():
    with pytest.raises(WorkbenchError, match=r"--memory 16 or --memory T4"):
        card_here("cuda")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_gpu_here_is_measured():
    card = card_here("auto")
    assert card.kind == "cuda"
    assert 5e10 < card.bandwidth < 2e13
    assert 1e12 < card.flops < 5e15
