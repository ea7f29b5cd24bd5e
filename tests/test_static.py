"""decode_static() against decode(), eagerly and replayed from a tape that stands in for a CUDA graph."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from workbench import static
from workbench.decoding import SERIES, Request, Uniforms, decode
from workbench.packing import shared_prefill
from workbench.static import decode_static, rung

FAMILIES = ["llama", "qwen2", "qwen3", "gemma3_text"]  # gemma2 caps its scores: not by sdpa
TEXTS = ("Make 24 from 3 8", "Compute 1", "Compute 12 + 3 * 4", "Make 7")
PLAIN = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}


def both(policy, *, group=6, steps=40, limits=None, stops=None, settings=None, stats=True, **more):
    """The same rows by the loop over prefixes and by the static one."""
    ids_PL, mask_PL = policy.encode(
        policy.render([[{"role": "user", "content": text}] for text in TEXTS])
    )
    owners_B = torch.arange(len(TEXTS) * group) // group
    limits_B = torch.full_like(owners_B, steps) if limits is None else limits
    stop_ids = torch.tensor(policy.stop_ids() if stops is None else stops)
    assert not mask_PL.all()  # the padding is put to the test
    found = []
    for loop in (decode, decode_static):
        uniforms = Uniforms(torch.Generator().manual_seed(5), len(owners_B))
        draw = PLAIN | (settings or {})
        asked = Request(ids_PL, mask_PL, owners_B, limits_B, stop_ids, draw, stats, **more)
        found.append(loop(policy.sampler(), asked, uniforms))
    return found


def assert_same(wanted, mine):
    assert torch.equal(wanted.mask_BT, mine.mask_BT)
    assert torch.equal(wanted.tokens_BT, mine.tokens_BT)
    for name, here, there in zip(SERIES, mine.statistics_5BT, wanted.statistics_5BT, strict=True):
        torch.testing.assert_close(here, there, atol=2e-4, rtol=1e-4, msg=name)


@pytest.fixture
def short_ladder(monkeypatch):
    """Shapes of a toy's size, so that rows and columns both climb and go down."""
    monkeypatch.setattr(static, "FEWEST_ROWS", 2)
    monkeypatch.setattr(static, "FEWEST_COLUMNS", 8)
    monkeypatch.setattr(static, "LOOK", 4)


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_that_end_at_all_times_are_those_of_the_loop_over_prefixes(
    policy_of, family, short_ladder
):
    policy = policy_of(family)
    wanted, mine = both(policy, stops=[12, 20, 31], settings={"temperature": 1.5})
    lengths = wanted.mask_BT.sum(1)
    assert len(lengths.unique()) > 5 and int(lengths.min()) < 8 and int(lengths.max()) > 8
    assert_same(wanted, mine)


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 0},
        {"temperature": 0.7},
        {"top_k": 5},
        {"top_p": 0.8},
        {"min_p": 0.1, "temperature": 2.0},
    ],
)
def test_every_setting_of_the_draw(policy_of, settings):
    assert_same(*both(policy_of(), settings=settings, steps=20))


def test_rows_that_end_by_what_they_say_are_alike_up_to_there(policy_of, short_ladder, monkeypatch):
    """Both loops look at the same steps, see the same tokens of a row, and draw no more of it after."""
    monkeypatch.setattr("workbench.decoding.LOOK", 4)

    def ended(tokens_AT):
        return (tokens_AT % 7 == 3).any(1)

    wanted, mine = both(policy_of(), stops=[], ended=ended)
    lengths = mine.mask_BT.sum(1)
    assert len(lengths.unique()) > 2 and int(lengths.max()) < 40 and not (lengths % 4).any()
    assert_same(wanted, mine)


def test_limits_of_rows_none_at_all_included(policy_of, short_ladder):
    limits = torch.tensor([0, 3, 17, 1, 9, 0] * 4)
    wanted, mine = both(policy_of("qwen3"), limits=limits)
    assert int(mine.mask_BT.sum(1).max()) == 17 and not mine.mask_BT[0].any()
    assert_same(wanted, mine)


def test_prompts_run_by_another_function_and_through_the_trainable_model(policy_of):
    policy = policy_of("qwen2", lora_dropout=0.5)
    assert_same(*both(policy, begin=shared_prefill))
    policy.merged = "never"
    assert_same(*both(policy, steps=10))


def test_nothing_is_recorded_without_stats(policy_of):
    wanted, mine = both(policy_of(), stats=False, steps=10)
    assert torch.equal(wanted.tokens_BT, mine.tokens_BT) and not mine.statistics_5BT.any()


def test_the_ladder():
    assert [rung(n, 8) for n in (1, 8, 9, 12, 13, 16, 17, 24, 25, 64, 65)] == [
        8, 8, 12, 12, 16, 16, 24, 24, 32, 64, 96,
    ]  # fmt: skip


# --- replaying ------------------------------------------------------------------------------------


class Tape(TorchDispatchMode):
    """Operations and the tensors they touched, to be run again on the same memory: what a CUDA graph is."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function is torch.ops.aten._local_scalar_dense.default:
            raise RuntimeError("the step asks the host for a value")
        made = function(*args, **(kwargs or {}))
        self.calls.append((function, args, kwargs or {}, made))
        return made

    def replay(self):
        for function, args, kwargs, made in self.calls:
            again = function(*args, **kwargs)
            for old, new in zip(_tensors(made), _tensors(again), strict=True):
                if old.data_ptr() != new.data_ptr():  # neither in place nor a view
                    old.copy_(new)


def _tensors(made):
    return [made] if isinstance(made, torch.Tensor) else [x for x in made or () if x is not None]


@pytest.fixture
def taped(monkeypatch):
    """Captures by tape; boards are kept between calls as on a GPU. Returns the tapes made."""
    tapes = []

    def capture(step, pool):
        # What a graph captures it does not run, so the buffers are put back.
        board = step.func.__self__
        kept = [x for x in vars(board).values() if isinstance(x, torch.Tensor)]
        kept += [x for layer in board.layers for x in (layer.keys, layer.values)]
        before = [x.clone() for x in kept]
        with Tape() as tape:
            step()
        for buffer, value in zip(kept, before, strict=True):
            buffer.copy_(value)
        tapes.append(tape)
        return tape.replay, pool

    monkeypatch.setattr(static, "capture", capture)
    monkeypatch.setattr(static, "_keep", static._kept.__setitem__)
    return tapes


@pytest.mark.parametrize("family", FAMILIES)
def test_a_replayed_step_is_the_step(policy_of, family, short_ladder, taped):
    wanted, mine = both(policy_of(family), stops=[12, 20], settings={"temperature": 1.5})
    assert len(taped) > 3  # several shapes
    assert_same(wanted, mine)


def test_graphs_are_kept_while_weights_change_in_place_and_made_anew_when_they_move(
    policy_of, taped
):
    policy = policy_of()
    assert_same(*both(policy))
    made = len(taped)
    with torch.no_grad():
        for _, parameter in policy.trainable():
            parameter.mul_(-3)
    wanted, mine = both(policy)  # sampler() merges into the same memory
    assert_same(wanted, mine)
    assert len(taped) == made
    policy._sampler.lm_head.weight = torch.nn.Parameter(
        policy._sampler.lm_head.weight.flip(0).contiguous(), False
    )
    assert_same(*both(policy))
    assert len(taped) == made + 1
    assert_same(*both(policy, settings={"temperature": 0.5}))
    assert len(taped) == made + 2


def test_an_adapter_held_for_a_while_is_not_decoded_by_the_old_graphs(policy_of, taped):
    policy = policy_of()
    policy.merged = "never"
    assert_same(*both(policy, steps=12))
    with policy.holding(policy.base_adapter()):
        assert_same(*both(policy, steps=12))
    assert_same(*both(policy, steps=12))
    assert len(taped) == 3


def test_a_step_that_can_not_be_captured_runs_eagerly_and_says_so(policy_of, monkeypatch):
    def capture(step, pool):
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(static, "capture", capture)
    with pytest.warns(UserWarning, match="could not be captured .*not permitted"):
        wanted, mine = both(policy_of())
    assert_same(wanted, mine)


def test_kept_buffers_can_be_freed(policy_of, taped):
    policy = policy_of()
    both(policy, steps=6)
    assert policy.sampler() in static._kept
    static.release()
    assert policy.sampler() not in static._kept


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("merged", ["always", "never"])
def test_cuda_graphs_draw_what_the_eager_step_draws(toy_family, merged, short_ladder, monkeypatch):
    from workbench.models import load_policy

    policy = load_policy(toy_family("qwen3"), quantize="nf4", device="cuda", merged=merged)
    ids_PL, mask_PL = policy.encode(
        policy.render([[{"role": "user", "content": text}] for text in TEXTS])
    )
    owners_B = torch.arange(24, device=ids_PL.device) // 6
    stop_ids = torch.tensor([12, 20], device=ids_PL.device)

    def run():
        uniforms = Uniforms(torch.Generator().manual_seed(5), 24)
        limits_B = torch.full_like(owners_B, 40)
        asked = Request(ids_PL, mask_PL, owners_B, limits_B, stop_ids, PLAIN)
        return decode_static(policy.sampler(), asked, uniforms)

    graphs = run()
    static.release()
    monkeypatch.setattr(static.Board, "advance", static.Board.step)
    eager = run()
    assert torch.equal(graphs.tokens_BT, eager.tokens_BT)
    assert torch.equal(graphs.statistics_5BT, eager.statistics_5BT)
