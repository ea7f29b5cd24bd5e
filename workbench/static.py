"""decode_static(): the sampling loop for a GPU: everything at fixed addresses, a step that can be replayed.

    1. Every prompt is run once; its keys and values are copied to the rows that continue it.
    2. A step (forward pass, draw, statistics, end flags) reads and writes buffers alone and never asks the
       host, so that it is captured as a CUDA graph and replayed; one graph for each shape.
    3. A shape is a number of rows and of columns, both from a short ladder. The host looks at the end
       flags every `LOOK` steps: rows that have ended leave once a lower rung holds the others.
    4. Buffers and graphs are kept for the next call where they are small beside the GPU's memory. The
       weights are read where they lie: written in place they may change, moved they make new graphs.

Uniforms, tokens and statistics are those of `decoding.decode`, up to rounding. On the CPU the same step runs
eagerly. The design is that of gpt-fast (PyTorch Labs 2023); the code is ours.

P prompts, L prompt tokens (padded left), B rows, A rows that sample at all, R rows of the present shape, S
columns (prompt and completion), N = `LOOK` steps, V vocabulary.
"""

from __future__ import annotations

import functools
import warnings
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, Cache, DynamicCache
from transformers.cache_utils import DynamicLayer

from workbench.attention import attending, refuse_unknown
from workbench.decoding import DRAWS, LOOK, Recorded, Request, choose, evaluating
from workbench.sampling import statistics

STATIC = "workbench_static"
FEWEST_ROWS, FEWEST_COLUMNS = 8, 128
KEPT_SHARE = 1 / 8  # of the GPU's memory: buffers above it are freed after a call

_kept: weakref.WeakKeyDictionary[nn.Module, Board] = weakref.WeakKeyDictionary()


def rung(number: int, least: int) -> int:
    """The first of `least` times 1, 1.5, 2, 3, 4, 6, 8, … that is not below `number`."""
    size = least
    while size < number:
        if size * 3 // 2 >= number:
            return size * 3 // 2
        size *= 2
    return size


class StaticLayer(DynamicLayer):
    """One layer's keys and values, (rows, heads, columns, size), of which the board's shape is in use."""

    def __init__(self, like: DynamicLayer, board: Board) -> None:
        super().__init__()
        self.lazy_initialization(like.keys, like.values)
        self.board = board
        # Zeros: what no row has written yet is weighed by 0, and 0 times garbage may be nan.
        self.keys, self.values = (
            part.new_zeros(board.most_rows, part.shape[1], board.most_columns, part.shape[3])
            for part in (like.keys, like.values)
        )

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Write the keys and values of one new token at the board's slot; return all columns."""
        board = self.board
        keys, values = (x[: board.rows, :, : board.columns] for x in (self.keys, self.values))
        keys.index_copy_(2, board.slot_1, key_states)
        values.index_copy_(2, board.slot_1, value_states)
        return keys, values

    def get_seq_length(self) -> int:
        """Columns in use but one; positions and mask are given, so that nothing depends on it."""
        return self.board.columns - 1


class Board:
    """All buffers of a step, and its graphs by shape."""

    def __init__(self, prompt: DynamicCache, rows: int, columns: int, stop_ids: Tensor) -> None:
        device, dtype = prompt.layers[0].keys.device, prompt.layers[0].keys.dtype
        self.most_rows, self.most_columns = self.rows, self.columns = rows, columns
        self.layers = [StaticLayer(layer, self) for layer in prompt.layers]
        self.cache = Cache(layers=self.layers)
        self.stop_ids = stop_ids.clone()

        def zeros(*size: int, dtype: torch.dtype = torch.long) -> Tensor:
            return torch.zeros(size, dtype=dtype, device=device)

        self.slot_1, self.place_1 = zeros(1), zeros(1)  # column to write; step since the last look
        self.tokens_R, self.positions_R, self.left_R = zeros(rows), zeros(rows), zeros(rows)
        self.alive_R = zeros(rows, dtype=torch.bool)
        self.hidden_RS = zeros(rows, columns, dtype=dtype)  # added to the scores: 0 or -inf
        self.uniforms_NR = zeros(LOOK, rows, dtype=torch.float64)
        self.tokens_NR, self.live_NR = zeros(LOOK, rows), zeros(LOOK, rows, dtype=torch.bool)
        self.statistics_5NR = zeros(5, LOOK, rows, dtype=torch.float32)
        self.rows_R, self.columns_S = torch.arange(rows, device=device), zeros(columns)
        self.columns_S += torch.arange(columns, device=device)
        self.masks: dict[int | None, Tensor] = {}  # of the present step, by sliding window
        self.signature: tuple[Any, ...] = ()
        self.graphs: dict[tuple[int, int], Callable[[], None] | None] = {}
        self.pool: Any = None
        self.can_capture = True

    def bytes(self) -> int:
        """Of the keys and values."""
        return sum(x.nbytes for layer in self.layers for x in (layer.keys, layer.values))

    def begin(
        self, prompt: DynamicCache, mask_PL: Tensor, owners_A: Tensor, limits_A: Tensor
    ) -> None:
        """Give every row its prompt's keys and values; rows beyond A see nothing and have ended."""
        count, width = len(owners_A), mask_PL.shape[1]
        self.rows = rung(count, FEWEST_ROWS)
        for layer, shared in zip(self.layers, prompt.layers, strict=True):
            layer.keys[:count, :, :width] = shared.keys[owners_A]
            layer.values[:count, :, :width] = shared.values[owners_A]
            shared.keys = shared.values = None  # the prompt's memory goes as the rows' fills
        self.hidden_RS.fill_(-torch.inf)
        self.hidden_RS[:count, :width].masked_fill_(mask_PL[owners_A], 0.0)
        self.positions_R[:count] = mask_PL.sum(1)[owners_A]
        self.alive_R.zero_()
        self.alive_R[:count] = True
        self.left_R[:count] = limits_A
        self.slot_1.fill_(width)

    def mask(self, window: int | None) -> Tensor:
        """What is added to the scores, (R, 1, 1, S); computed once a step for each sliding window."""
        if window not in self.masks:
            hidden_RS = self.hidden_RS[: self.rows, : self.columns]
            if window is not None:
                distance_S = self.slot_1 - self.columns_S[: self.columns]
                hidden_RS = hidden_RS.masked_fill(distance_S >= window, -torch.inf)
            self.masks[window] = hidden_RS[:, None, None]
        return self.masks[window]

    def select(self, logits_RV: Tensor, settings: dict[str, Any], stats: bool) -> None:
        """Draw the next token of every row, record it, and see who has ended."""
        rows = slice(self.rows)
        uniforms_R = self.uniforms_NR[:, rows].index_select(0, self.place_1)[0]
        tokens_R = choose(logits_RV, self.rows_R[rows], uniforms_R, **settings)
        alive_R, left_R = self.alive_R[rows], self.left_R[rows]
        self.tokens_NR[:, rows].index_copy_(0, self.place_1, tokens_R[None])
        self.live_NR[:, rows].index_copy_(0, self.place_1, alive_R[None])
        if stats:
            found_5R = statistics(logits_RV, self.rows_R[rows], tokens_R)
            self.statistics_5NR[:, :, rows].index_copy_(1, self.place_1, found_5R[:, None])
        self.tokens_R[rows] = tokens_R
        left_R -= 1
        alive_R &= ~(tokens_R[:, None] == self.stop_ids).any(-1) & (left_R > 0)
        self.place_1 += 1

    def step(self, model: nn.Module, settings: dict[str, Any], stats: bool) -> None:
        """One forward pass over the tokens last drawn, and the draw of the next ones."""
        self.masks.clear()
        rows = slice(self.rows)
        self.hidden_RS[rows].index_fill_(1, self.slot_1, 0.0)
        with attending(model, STATIC):
            output = model(
                self.tokens_R[rows, None],
                # Made to measure in the attention below; a 4-D mask keeps transformers from making one.
                attention_mask=self.mask(None),
                position_ids=self.positions_R[rows, None],
                past_key_values=self.cache,
                use_cache=True,
                board=self,
            )
        self.positions_R += 1
        self.slot_1 += 1
        self.select(output.logits[:, -1], settings, stats)

    def advance(self, model: nn.Module, settings: dict[str, Any], stats: bool) -> None:
        """A step by its graph. The first of a shape runs eagerly, which warms up; the second captures."""
        shape = self.rows, self.columns
        eager = functools.partial(self.step, model, settings, stats)
        if not self.can_capture:
            eager()
        elif shape not in self.graphs:
            warm_up(eager, self.slot_1.device)
            self.graphs[shape] = None
        else:
            replay = self.graphs[shape] or self._captured(eager)
            self.graphs[shape] = replay if self.can_capture else None
            replay()

    def _captured(self, eager: Callable[[], None]) -> Callable[[], None]:
        try:
            replay, self.pool = capture(eager, self.pool)
        except RuntimeError as error:
            self.can_capture = False
            warnings.warn(
                "This model's decoding step could not be captured as a CUDA graph "
                f"({str(error).splitlines()[0]}); it runs uncaptured, which is slower.",
                stacklevel=2,
            )
            return eager
        return replay

    def leave(self, alive_R: Tensor, filled: int) -> Tensor | None:
        """Go down to the rung that holds the rows still alive; those beyond it move into free ones.

        `alive_R` lies on the CPU, `filled` columns are in use. Returns the old row of each new one, on the
        CPU; None where the shape stays.
        """
        alive = alive_R.nonzero().squeeze(1)
        rows = rung(len(alive), FEWEST_ROWS)
        if rows >= self.rows:
            return None
        sources = alive[alive >= rows]
        targets = (~alive_R[:rows]).nonzero().squeeze(1)[: len(sources)]
        came_R = torch.arange(rows)
        came_R[targets] = sources
        device = self.slot_1.device
        to, source = targets.to(device), sources.to(device)
        for layer in self.layers:
            for part in (layer.keys, layer.values):
                part[to, :, :filled] = part[source, :, :filled]
        for part in (self.tokens_R, self.positions_R, self.left_R, self.alive_R, self.hidden_RS):
            part[to] = part[source]
        self.rows = rows
        return came_R


def warm_up(step: Callable[[], None], device: torch.device) -> None:
    """Run a step for real on a side stream, as capture wants it: libraries set themselves up here."""
    if device.type != "cuda":
        step()
        return
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        step()
    torch.cuda.current_stream(device).wait_stream(stream)


def capture(step: Callable[[], None], pool: Any) -> tuple[Callable[[], None], Any]:
    """A step as a CUDA graph: how to replay it, and its memory pool, which the next graph shares.

    Sharing is safe, since graphs run one at a time and leave what counts in buffers outside the pool. Without
    CUDA the step itself. Raises RuntimeError where the step asks the host or is otherwise not capturable.
    """
    if not torch.cuda.is_available():
        return step, None
    graph = torch.cuda.CUDAGraph()
    # Other threads may use the GPU meanwhile, so only this one is watched.
    with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
        step()
    return graph.replay, graph.pool()


@torch.no_grad()
def decode_static(model: nn.Module, asked: Request, uniforms: Callable[[int], Tensor]) -> Recorded:
    """What `decoding.decode` returns, for a model that attends by sdpa."""
    mask_PL, owners_B, limits_B = asked.mask_PL, asked.owners_B, asked.limits_B
    settings, stats, device = asked.settings, asked.stats, mask_PL.device
    width, most = mask_PL.shape[1], asked.steps
    recorded = Recorded.empty(asked.rows, most, device)
    rows = (limits_B > 0).nonzero().squeeze(1).cpu()  # which completion each row of the board is
    with evaluating(model):
        logits_PV, prompt = asked.begin(model, asked.ids_PL, mask_PL)
        owners_A, limits_A = owners_B[rows.to(device)], limits_B[limits_B > 0]
        choices = (stats, *settings.items())
        board = _board(model, prompt, len(rows), width + most, asked.stop_ids, choices)
        board.begin(prompt, mask_PL, owners_A, limits_A)
        first_RV = logits_PV[nn.functional.pad(owners_A, (0, board.rows - len(rows)))]
        for start in range(0, most, LOOK):
            steps = min(LOOK, most - start)
            block_NR = uniforms(start // DRAWS)[start % DRAWS :][:steps, rows]
            board.uniforms_NR[:steps, : len(rows)] = block_NR.to(device)
            board.place_1.zero_()
            board.columns = rung(width + start + steps, FEWEST_COLUMNS)
            for step in range(start, start + steps):
                if step:
                    board.advance(model, settings, stats)
                else:
                    board.select(first_RV, settings, stats)
                    del first_RV
            _record(recorded, board, rows, slice(start, start + steps))
            if asked.ended is not None:
                ended_A = asked.ended(recorded.tokens_BT[rows.to(device), : start + steps])
                board.alive_R[: len(rows)] &= ~ended_A
            alive_R = board.alive_R[: board.rows].cpu()
            if not alive_R.any():
                break
            came_R = board.leave(alive_R, width + start + steps)
            if came_R is not None:
                rows = rows[came_R]
    _keep(model, board)
    return recorded


def _record(recorded: Recorded, board: Board, rows: Tensor, columns: slice) -> None:
    """Copy what the board's rows have drawn since the last look to their completions."""
    steps, count = columns.stop - columns.start, len(rows)
    live_AN = board.live_NR[:steps, :count].T
    rows = rows.to(live_AN.device)
    recorded.mask_BT[rows, columns] = live_AN
    recorded.tokens_BT[rows, columns] = board.tokens_NR[:steps, :count].T * live_AN
    found_5AN = board.statistics_5NR[:, :steps, :count].transpose(1, 2)
    recorded.statistics_5BT[:, rows, columns] = found_5AN.masked_fill(~live_AN, 0.0)


def _board(
    model: nn.Module,
    prompt: DynamicCache,
    rows: int,
    columns: int,
    stop_ids: Tensor,
    choices: tuple[Any, ...],
) -> Board:
    """The model's board of the last call where it is large enough, else a new one."""
    rows, columns = rung(rows, FEWEST_ROWS), rung(columns, FEWEST_COLUMNS)
    board = _kept.pop(model, None)
    stops = tuple(stop_ids.tolist())
    if board is None or board.most_rows < rows or board.most_columns < columns:
        board = None  # the old one is freed before the new one is made
        board = Board(prompt, rows, columns, stop_ids)
    # What a graph has fixed: the choices of the draw, and where the weights lie.
    signature = (stops, choices, tuple(p.data_ptr() for p in model.parameters()))
    if signature != board.signature:
        board.graphs.clear()
        board.pool = None  # it went with its last graph
        board.signature, board.stop_ids = signature, stop_ids.clone()
    return board


def _keep(model: nn.Module, board: Board) -> None:
    """Keep the board for the next call where it is small beside the GPU's memory."""
    device = board.slot_1.device
    if device.type == "cuda":
        whole = torch.cuda.get_device_properties(device).total_memory
        if board.bytes() <= KEPT_SHARE * whole:
            _kept[model] = board


def release() -> None:
    """Free the buffers and graphs that are kept for the next call."""
    _kept.clear()


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    board: Board,
    scaling: float,
    sliding_window: int | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """One query (R, heads, 1, size) a row; queries of one key head stand together like several tokens'."""
    refuse_unknown(others)
    rows, heads, _, size = key.shape
    grouped = query.reshape(rows, heads, -1, size)
    mask = board.mask(sliding_window).expand(-1, -1, grouped.shape[2], -1)
    found = scaled_dot_product_attention(grouped, key, value, attn_mask=mask, scale=scaling)
    return found.reshape(rows, 1, -1, value.shape[-1]), None


AttentionInterface.register(STATIC, _attention)
