"""The loss of the embedded model with fewer cached keys: `python -m experiments.evict`.

Held-out modules are read with a cache, `STEP` tokens at a time. The two layers with full attention keep
at most a budget of keys at any time: after each step they drop the excess. The other three have windows of 32 or
128 tokens and keep those. Five policies, each with the same budget:

- the keys that received most weight so far, and the last half of the budget (heavy hitters: H2O, Zhang et al., 2023);
- the keys that received most on average from the tokens that could see them, which does not favour old keys;
- the keys that the last step gave most weight, and the last half (after TOVA, Oren et al., 2024);
- the first 4 tokens and the last ones (StreamingLLM, Xiao et al., 2024);
- the last tokens only.

The first three choose keys for each head. Bits are per byte of the tokens that come after `SKIPPED`.
"""

from __future__ import annotations

import argparse
import math
import os
import platform
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from experiments.corpus import corpus
from regard.cache import KVCache
from regard.models import Embedded, load
from regard.spec.observers import Received

ROWS, LENGTH, SKIPPED, STEP = 8, 1536, 512, 8
BUDGETS = (32, 64, 128, 256)
SINKS = 4

Policy = Callable[[KVCache, Tensor, int], KVCache]
"""Reduces a cache to a budget, given the weight that its keys received in the last step."""


def most_received(cache: KVCache, last: Tensor, budget: int) -> KVCache:
    """The keys that received most so far, and the last half of the budget."""
    del last
    return cache.keep(budget, by=cache.received)


def most_received_on_average(cache: KVCache, last: Tensor, budget: int) -> KVCache:
    """The keys that received most from each token that could see them, and the last half of the budget."""
    del last
    return cache.keep(budget, by=cache.mean_received)


def most_received_in_last_step(cache: KVCache, last: Tensor, budget: int) -> KVCache:
    """The keys that received most in the last step, and the last half of the budget."""
    return cache.keep(budget, by=last)


def first_and_last(cache: KVCache, last: Tensor, budget: int) -> KVCache:
    """The first tokens of the text, and the last."""
    first = (cache.positions < SINKS).to(last.dtype).expand_as(cache.keys[..., 0])
    return cache.keep(budget, by=first, recent=max(budget - SINKS, 0))


def only_last(cache: KVCache, last: Tensor, budget: int) -> KVCache:
    """The last tokens."""
    del last
    return cache.keep(budget)


POLICIES: dict[str, Policy] = {
    "received, sum": most_received,
    "received, average": most_received_on_average,
    "looked at last": most_received_in_last_step,
    "first 4 and last": first_and_last,
    "last only": only_last,
}


@torch.no_grad()
def loss(embedded: Embedded, tokens: Tensor, policy: Policy | None, budget: int, skipped: int) -> float:
    """Bits per byte of each row's tokens after `skipped`; a policy limits the layers without a window to a budget."""
    model, width = embedded.model, torch.tensor(embedded.tokenizer.byte_lengths)
    caches, total = model.new_caches(), 0.0
    unlimited = [i for i, cache in enumerate(caches) if cache.window is None]
    for begin in range(0, tokens.shape[1] - 1, STEP):
        end = min(begin + STEP, tokens.shape[1] - 1)
        seen, caches = model.extend_observed(tokens[:, begin:end], caches, Received())
        if policy is not None:
            for i in unlimited:
                caches[i] = policy(caches[i], seen.layers[i][Received()], budget - STEP)
        first = max(skipped, begin)
        if first < end:
            targets = tokens[:, first + 1 : end + 1]
            logits = model.logits(seen.hidden[:, first - begin :])
            total += F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum").item()
    return total / math.log(2) / int(width[tokens[:, skipped + 1 :]].sum())


def windows(embedded: Embedded, rows: int, length: int) -> Tensor:
    """Windows of held-out text, spread over all of it: (rows, length)."""
    ids = [token for s in corpus().held_out for token in embedded.tokenizer.file_ids(s.text)]
    starts = torch.linspace(0, len(ids) - length, rows).long().tolist()
    return torch.stack([torch.tensor(ids[start : start + length]) for start in starts])


def table(embedded: Embedded, tokens: Tensor, budgets: Sequence[int], skipped: int) -> str:
    """Loss by budget, a row for each policy."""
    lines = [" " * 18 + "".join(f"{budget:>9}" for budget in budgets)]
    for name, policy in POLICIES.items():
        bits = [loss(embedded, tokens, policy, budget, skipped) for budget in budgets]
        lines.append(f"{name:<18}" + "".join(f"{value:>9.3f}" for value in bits))
    everything = loss(embedded, tokens, None, 0, skipped)
    return "\n".join([*lines, f"{'every key':<18}{everything:>9.3f}"])


def main(arguments: list[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.evict", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=ROWS, help="windows of held-out text")
    parser.add_argument("--length", type=int, default=LENGTH, help="tokens of each")
    parser.add_argument("--budgets", type=int, nargs="+", default=BUDGETS, help="keys to keep")
    options = parser.parse_args(arguments)
    if min(options.budgets) <= STEP + SINKS:
        parser.error(f"budgets: above {STEP + SINKS}, a step and the first tokens")
    embedded, start = load(), time.monotonic()
    tokens = windows(embedded, options.rows, options.length)
    skipped = min(SKIPPED, options.length // 3)
    print(
        f"bits per byte of held-out code, {options.rows} windows, tokens {skipped} to {options.length};\n"
        "a layer with full attention keeps at most so many keys:"
    )
    print(table(embedded, tokens, options.budgets, skipped))
    print(
        f"on {platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}, {time.monotonic() - start:.0f} s"
    )


if __name__ == "__main__":
    main()
