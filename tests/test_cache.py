"""What the cache saves; that nothing is lost by it is in test_rollout."""

from workbench.cache import PrefixCache
from workbench.rollout import sample

PROMPTS = [[{"role": "user", "content": text}] for text in ("Make 24 from 3 8", "Compute 1")]


def test_each_distinct_prefix_is_run_once(policy_of, monkeypatch):
    policy = policy_of()
    run = []
    step = PrefixCache.step

    def count(self, parents, tokens):
        run.append(len(tokens))
        return step(self, parents, tokens)

    monkeypatch.setattr(PrefixCache, "step", count)
    made = sample(policy, PROMPTS, group_size=8, max_new_tokens=6, seed=4)
    rows = zip(made.completion_ids_BT.tolist(), made.lengths_B.tolist(), strict=True)
    prefixes = {(b // 8, *tokens[:k]) for b, (tokens, n) in enumerate(rows) for k in range(1, n)}
    assert sum(run) == len(prefixes) < made.B * 5
