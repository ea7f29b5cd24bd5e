"""Bytes: what a run holds in its device's memory, line by line, and in which phase.

Weights, adapter, gradients, optimiser states and the cache of keys and values are counted exactly.
Activations, buffers and overhead are estimates, and say so.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from workbench.planning import Plan
from workbench.shapes import Matrix, ModelShape
from workbench.static import FEWEST_COLUMNS, FEWEST_ROWS, KEPT_SHARE, rung
from workbench.tiles import TILE

PHASES = ("loading", "sampling", "evaluation", "reference", "update")
WORKING = PHASES[1:]
GIB = 2**30

NF4_BLOCK, NF4_NESTED = 64, 256  # weights that share a scale; scales that share a scale of theirs
# Of each NF4 layer: 16 levels, 256 levels of the nested scales and their offset, all fp32.
NF4_TABLES = 4 * (16 + 256 + 1)
SMALL_STATE, STATE_BLOCK = (
    4096,
    256,
)  # numbers below which a state stays in fp32; that share a scale
CUDA_CONTEXT = int(0.5 * GIB)  # the driver, and the kernels that torch and bitsandbytes load
CPU_LIBRARIES = int(0.6 * GIB)  # Python with torch, transformers and bitsandbytes
FRAGMENTS = 0.05  # of everything else: memory that torch holds in pieces too small to use
FP32, FP64 = 4, 8


@dataclass(frozen=True)
class Item:
    """One line: phase -> bytes held in it, absent where none are; `exact`, or an estimate."""

    name: str
    bytes: dict[str, int]
    exact: bool = True


def item(name: str, size: int, phases: tuple[str, ...] = WORKING, exact: bool = True) -> Item:
    """A line that is as long in each of its phases."""
    return Item(name, dict.fromkeys(phases, size), exact)


def items(shape: ModelShape, plan: Plan) -> tuple[Item, ...]:
    """Every line of the footprint that is not 0."""
    lines = (*_held(shape, plan), *_while_sampling(shape, plan), *_while_training(shape, plan))
    lines = tuple(line for line in lines if any(line.bytes.values()))
    return (*lines, *_overhead(plan, lines))


def phase_bytes(lines: tuple[Item, ...]) -> dict[str, int]:
    """The sum of each phase."""
    return {phase: sum(line.bytes.get(phase, 0) for line in lines) for phase in PHASES}


def peak_bytes(shape: ModelShape, plan: Plan) -> int:
    """The highest of the phases' sums."""
    return max(phase_bytes(items(shape, plan)).values())


# --- what stays ---------------------------------------------------------------------------------


def is_quantised(matrix: Matrix, plan: Plan) -> bool:
    """Whether a matrix is stored in 4 or 8 bit: linear layers are, the head and embeddings are not.

    Nor, under NF4 on the CPU, are those whose inputs are no multiple of 64 (see `loading`).
    """
    if plan.quantize == "none" or matrix.kind != "linear":
        return False
    return plan.quantize != "nf4" or plan.device != "cpu" or matrix.inputs % NF4_BLOCK == 0


def stored_bytes(matrix: Matrix, plan: Plan) -> int:
    """Bytes of a matrix as bitsandbytes 0.50 stores it, or as it is."""
    if matrix.shares:
        return 0
    if not is_quantised(matrix, plan):
        return matrix.size * plan.compute_bytes
    if plan.quantize == "int8":
        return matrix.size + FP32 * matrix.outputs
    blocks = -(-matrix.size // NF4_BLOCK)
    nested = -(-blocks // NF4_NESTED)
    return -(-matrix.size // 2) + blocks + FP32 * nested + NF4_TABLES


def adapter_numbers(shape: ModelShape, plan: Plan) -> int:
    """Trained numbers: rank x (inputs + outputs) of every adapted layer."""
    return sum(plan.lora_rank * (m.inputs + m.outputs) for m in shape.adapted(plan.lora_targets))


def merged_bytes(shape: ModelShape, plan: Plan) -> int:
    """The plain copy that is sampled from: a matrix for each that is quantised or adapted."""
    adapted = set(shape.adapted(plan.lora_targets))
    own = [m for m in shape.matrices if m in adapted or is_quantised(m, plan)]
    return plan.compute_bytes * sum(m.size for m in own)


def optimizer_bytes(shape: ModelShape, plan: Plan) -> int:
    """AdamW: two fp32 numbers for each that is trained, and on the CPU's side a step count for each tensor.

    In 8 bit two bytes, two fp32 scales for each 256, and two tables in all; small tensors stay in fp32.
    """
    sides = (side for m in shape.adapted(plan.lora_targets) for side in (m.inputs, m.outputs))
    sizes = [plan.lora_rank * side for side in sides]
    if plan.optimizer == "adamw":
        return 2 * FP32 * sum(sizes) + (FP32 * len(sizes) if plan.device == "cpu" else 0)
    large = [size for size in sizes if size >= SMALL_STATE]
    scales = sum(-(-size // STATE_BLOCK) for size in large)
    tables = 2 * FP32 * 256 if large else 0
    return 2 * FP32 * (sum(sizes) - sum(large) + scales) + 2 * sum(large) + tables


def _held(shape: ModelShape, plan: Plan) -> Iterator[Item]:
    small = [m for m in shape.matrices if is_quantised(m, plan)]
    rest = [m for m in shape.matrices if not is_quantised(m, plan)]
    plain = sum(stored_bytes(m, plan) for m in rest) + shape.others * plan.compute_bytes
    bits = 8 * plan.compute_bytes
    if small:
        name = f"base: {len(small)} linear layers, {plan.quantize}"
        yield item(name, sum(stored_bytes(m, plan) for m in small), PHASES)
        yield item(
            f"base: embeddings, norms and the rest, {bits} bit", plain + shape.buffers, PHASES
        )
    else:
        yield item(f"base weights, {bits} bit", plain + shape.buffers, PHASES)
    in_flight = max((m.size * plan.compute_bytes for m in small), default=0)
    yield item("largest matrix before it is quantised", in_flight, ("loading",), False)
    adapter = FP32 * adapter_numbers(shape, plan)
    yield item(f"LoRA of rank {plan.lora_rank}, fp32", adapter, PHASES)
    yield item("the moving reference's LoRA", adapter if plan.moving else 0)
    yield item(f"states of {plan.optimizer}", optimizer_bytes(shape, plan))
    if plan.merged:
        yield item(f"merged copy to sample from, {bits} bit", merged_bytes(shape, plan))


# --- sampling -----------------------------------------------------------------------------------


def key_value_bytes(shape: ModelShape, plan: Plan, rows: int, tokens: int) -> int:
    """Keys and values of `tokens` tokens in each of `rows` rows; windows don't shorten what is kept."""
    heads = sum(layer.key_heads * layer.size for layer in shape.layers)
    return rows * tokens * heads * 2 * plan.compute_bytes


def cache_room(prompt_tokens: int, new_tokens: int) -> int:
    """Tokens that the cache has room for at the end: it grows by a quarter (see `cache.RoomyLayer`)."""
    filled = prompt_tokens
    room = filled + max(32, filled // 4)
    while room < prompt_tokens + new_tokens - 1:
        room += max(32, room // 4)
    return room


def cache_bytes(shape: ModelShape, plan: Plan, prompts: int, rows: int) -> int:
    """The cache at its largest, with the prompts' own keys and values that it begins with.

    On a GPU rows and columns are those of a ladder (see `static`).
    """
    begun = key_value_bytes(shape, plan, prompts, plan.prompt_tokens)
    if plan.device == "cpu" or not shape.fused:
        room = cache_room(plan.prompt_tokens, plan.new_tokens)
        return begun + key_value_bytes(shape, plan, rows, room)
    columns = rung(plan.prompt_tokens + plan.new_tokens, FEWEST_COLUMNS)
    return begun + key_value_bytes(shape, plan, rung(rows, FEWEST_ROWS), columns)


def _while_sampling(shape: ModelShape, plan: Plan) -> Iterator[Item]:
    texts = {
        "sampling": (plan.prompts, plan.rows),
        "evaluation": (plan.eval_prompts, plan.eval_rows),
    }
    kept, drawing = {}, {}
    for phase, (prompts, rows) in texts.items():
        rows = min(rows, plan.decode_limit or rows)
        kept[phase] = cache_bytes(shape, plan, min(prompts, rows), rows)
        # Logits as they come, filtered in fp32, and twice their running sums in fp64.
        drawing[phase] = rows * shape.vocabulary * (plan.compute_bytes + FP32 + 2 * FP64)
    small = [phase for phase in texts if kept[phase] <= KEPT_SHARE * plan.memory]
    if plan.device == "cuda" and shape.fused and small:
        # On a GPU buffers that are small beside it stay for the next call.
        last = max(small, key=kept.__getitem__)
        for found in (kept, drawing):
            found |= dict.fromkeys(("reference", "update"), found[last])
    yield Item("keys and values", kept)
    yield Item("logits and sums while drawing", drawing, False)


# --- training -----------------------------------------------------------------------------------


def layer_bytes(shape: ModelShape, plan: Plan) -> int:
    """What autograd keeps of all layers, for a microbatch without checkpointing; an estimate.

    Inputs of adapted layers (in 16 bit each makes its own fp32 copy of it), what the adapter makes of them,
    the inputs of norms in fp32, of an MLP its gate before and after the activation and the other factor, of
    attention its queries, keys, values and result, the prompt's keys repeated for each row, and its mask;
    where it is not fused, its scores before and after the softmax.
    """
    adapted = shape.adapted(plan.lora_targets)
    sources = {(m.place, m.inputs) for m in adapted} if plan.compute_bytes == FP32 else adapted
    inputs = FP32 * sum(s[1] if isinstance(s, tuple) else s.inputs for s in sources)
    low_rank = FP32 * plan.lora_rank * len(adapted)
    norms = sum(FP32 * width for width in shape.norms)
    gates = 3 * shape.inner * len(shape.layers) * plan.compute_bytes
    queries = sum(2 * a.query_heads * a.size for a in shape.layers) * plan.compute_bytes
    length = plan.prompt_tokens + plan.new_tokens - 1
    keys = key_value_bytes(shape, plan, plan.pass_rows, length)
    pairs = plan.pass_rows * (plan.new_tokens - 1) * length
    masks = pairs * len(shape.layers)
    scores = 0 if shape.fused else 2 * pairs * sum(a.query_heads for a in shape.layers)
    each = inputs + low_rank + norms + gates + queries
    return plan.pass_tokens * each + keys + plan.compute_bytes * (masks + scores)


def activation_bytes(shape: ModelShape, plan: Plan) -> int:
    """What is kept for the backward pass of one microbatch; with checkpointing, one layer and all inputs."""
    everything = layer_bytes(shape, plan)
    if not plan.checkpointing:
        return everything
    layers = len(shape.layers)
    return everything // layers + plan.pass_tokens * shape.hidden * plan.compute_bytes * layers


def head_kept_bytes(shape: ModelShape, plan: Plan) -> int:
    """What log-probs keep of one microbatch for their backward pass: what the head reads.

    Also the logits, where all of them are one tile (see `tiles`).
    """
    contexts, (rows, words) = _contexts(plan), _tile(shape, plan)
    whole = rows == contexts and words == shape.vocabulary
    logits = FP32 * contexts * shape.vocabulary if whole else 0
    return contexts * shape.hidden * plan.compute_bytes + logits


def _contexts(plan: Plan) -> int:
    return plan.pass_rows * plan.new_tokens


def _tile(shape: ModelShape, plan: Plan) -> tuple[int, int]:
    """Contexts and words of one tile of logits."""
    words = min(shape.vocabulary, max(1, TILE // shape.hidden))
    return min(_contexts(plan), max(1, TILE // words)), words


def _while_training(shape: ModelShape, plan: Plan) -> Iterator[Item]:
    update, both = ("update",), ("reference", "update")
    yield item("gradients of LoRA, fp32", FP32 * adapter_numbers(shape, plan), update)
    name = "checkpointed activations" if plan.checkpointing else "activations"
    yield item(f"{name} of {plan.pass_rows} rows", activation_bytes(shape, plan), update, False)
    hidden = _contexts(plan) * shape.hidden
    kept, gathered = head_kept_bytes(shape, plan), FP32 * hidden
    last = {"reference": plan.compute_bytes * hidden, "update": kept + gathered}
    yield Item("last hidden states, and their gradient", last, False)
    rows, words = _tile(shape, plan)
    # Logits, probabilities and two steps on the way to the slope, and the part of the head that makes them.
    tile = 4 * FP32 * rows * words + plan.compute_bytes * words * shape.hidden
    yield item("a tile of logits", tile, both, False)
    yield item("one layer at work", _working(shape, plan), both, False)


def _working(shape: ModelShape, plan: Plan) -> int:
    """A matrix dequantised, and the widest layer's input and output for all tokens of a microbatch."""
    matrix = max((m.size for m in shape.linears if is_quantised(m, plan)), default=0)
    widest = max(m.inputs + m.outputs for m in shape.linears)
    return plan.compute_bytes * (matrix + plan.pass_tokens * widest)


def _overhead(plan: Plan, lines: tuple[Item, ...]) -> Iterator[Item]:
    if plan.device == "cpu":
        yield item("Python and its libraries (assumed)", CPU_LIBRARIES, PHASES, False)
        return
    yield item("CUDA context (assumed)", CUDA_CONTEXT, PHASES, False)
    pieces = {phase: int(FRAGMENTS * total) for phase, total in phase_bytes(lines).items()}
    yield Item(f"memory in pieces, {FRAGMENTS:.0%} (assumed)", pieces, False)
