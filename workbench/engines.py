"""Which engine decodes, and what others than the bench's own leave to be measured.

Every engine continues prompts under the same settings and stops. Where one gives no statistics, a forward
pass of the model that was sampled from does.

P prompts, L prompt tokens (padded left), B rows, T tokens, N rows of a part, V vocabulary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from workbench.decoding import Recorded, Request, evaluating
from workbench.native import decode_native
from workbench.paged import run_paged
from workbench.sampling import statistics
from workbench.served import check_vllm, run_vllm
from workbench.variants import WorkbenchError, unknown

if TYPE_CHECKING:
    from workbench.models import Policy

ENGINES = ("auto", "native", "paged", "vllm")
RUNNERS = {"paged": run_paged, "vllm": run_vllm}
_ENTRIES = 2**26  # logits of one forward pass that measures


def check_engine(engine: str, quantize: str) -> None:
    """Refuse an engine that is unknown, not installed, or can't hold the weights."""
    if engine not in ENGINES:
        raise WorkbenchError(unknown("engine", engine, ENGINES))
    if engine == "vllm":
        check_vllm()
        if quantize == "int8":
            raise WorkbenchError(
                'engine "vllm" has no int8 weights like these; use quantize="nf4" or "none", or '
                'engine="native".'
            )


def decode_by(engine: str, policy: Policy, asked: Request, generator: torch.Generator) -> Recorded:
    """What is asked for, by an engine.

    "auto" is "native", the only one whose rows do not depend on what is decoded beside them, and the only one
    that lets `asked.begin` run the prompts.
    """
    if engine not in RUNNERS:
        return decode_native(policy.sampler(), asked, generator)
    ids_PL, mask_PL, owners_B, limits_B = (
        asked.ids_PL,
        asked.mask_PL,
        asked.owners_B,
        asked.limits_B,
    )
    recorded = Recorded.empty(asked.rows, asked.steps, ids_PL.device)
    rows = (limits_B > 0).nonzero().squeeze(1).tolist()
    prompts = [ids_PL[p][mask_PL[p]].tolist() for p in range(len(ids_PL))]
    seed = int(torch.randint(2**31, (1,), generator=generator))
    owners, limits = owners_B.tolist(), limits_B.tolist()
    tokens, logprobs = RUNNERS[engine](
        policy,
        [prompts[owners[b]] for b in rows],
        asked.steps,
        asked.stop_ids.tolist(),
        asked.settings,
        seed,
    )
    for place, b in enumerate(rows):
        count = min(len(tokens[place]), limits[b])  # an engine has one limit for all rows
        recorded.tokens_BT[b, :count] = torch.tensor(tokens[place][:count])
        recorded.mask_BT[b, :count] = True
    if asked.stats:
        # vLLM has weights of its own; the other engine ran the sampler.
        model = policy.model if engine == "vllm" else policy.sampler()
        measure(model, ids_PL, mask_PL, owners_B, recorded)
        for place, b in enumerate(rows if logprobs is not None else ()):
            count = int(recorded.mask_BT[b].sum())
            recorded.statistics_5BT[0, b, :count] = torch.tensor(logprobs[place][:count])
    return recorded


@torch.no_grad()
def measure(
    model: nn.Module, ids_PL: Tensor, mask_PL: Tensor, owners_B: Tensor, recorded: Recorded
) -> None:
    """Fill in the five statistics of what was drawn, by forward passes over prompts and completions."""
    width, vocabulary = recorded.mask_BT.shape[1], model.config.get_text_config().vocab_size
    at_once = max(1, _ENTRIES // (vocabulary * (width + 1)))
    with evaluating(model):
        for rows_N in torch.arange(len(owners_B), device=ids_PL.device).split(at_once):
            drawn_NT, tokens_NT = recorded.mask_BT[rows_N], recorded.tokens_BT[rows_N]
            prompts_N = owners_B[rows_N]
            mask_NL = torch.cat((mask_PL[prompts_N], drawn_NT), 1)
            logits = model(
                torch.cat((ids_PL[prompts_N], tokens_NT), 1),
                attention_mask=mask_NL,
                position_ids=(mask_NL.cumsum(1) - 1).clamp(min=0),
                use_cache=False,
                logits_to_keep=width + 1,
            ).logits[:, :-1]
            contexts = drawn_NT.flatten().nonzero().squeeze(1)
            found_5M = statistics(logits.flatten(0, 1), contexts, tokens_NT[drawn_NT])
            part_5NT = recorded.statistics_5BT[:, rows_N]
            part_5NT[:, drawn_NT] = found_5M
            recorded.statistics_5BT[:, rows_N] = part_5NT


def differs(policy: Policy) -> bool:
    """Whether tokens are drawn by other numbers than the trainer's: another engine's, or a rounded copy's."""
    return policy.engine in RUNNERS or (policy.device.type != "cpu" and policy.merges())
