"""The embedded model's figures: `python -m experiments.evaluate`.

All are computed on held-out modules, one after the other, and compared with the size that xz compresses the same bytes
to. The model runs through `regard.attention` and `regard.observe`.
"""

from __future__ import annotations

import argparse
import lzma
import math
import os
import platform
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from experiments.corpus import SourceFile, corpus
from regard.models import Embedded, load
from regard.nn import Transformer
from regard.spec.observers import DistanceMass

HALF = 16_384
"""Long windows are twice this; their second half is scored, at positions 16k to 32k."""
SHORT, SKIPPED = 1024, 512
COPY, COPIES_SEED = 128, 0


@dataclass(frozen=True)
class HeadScore:
    """A head of the model, and the share of its weight at one distance."""

    layer: int
    head: int
    weight: float

    def __str__(self) -> str:
        return f"{self.weight:.3f} (layer {self.layer}, head {self.head})"


@dataclass(frozen=True)
class Figures:
    """The figures of a model. Bits are per byte of source text."""

    bits: float
    xz_bits: float
    near_bits: float
    far_bits: float
    previous: HeadScore
    """On repeated random tokens, where only position distinguishes tokens."""
    previous_on_text: HeadScore
    induction: HeadScore


def figures(embedded: Embedded, sources: tuple[SourceFile, ...]) -> Figures:
    """Every figure of a model on some sources."""
    ids = [token for source in sources for token in embedded.tokenizer.file_ids(source.text)]
    stream = torch.tensor(ids)
    packed = "".join(source.text for source in sources).encode()
    width = torch.tensor(embedded.tokenizer.byte_lengths)
    scored_bytes = int(width[stream[HALF + 1 :]].sum())
    compressed = lzma.compress(packed, preset=9 | lzma.PRESET_EXTREME)
    with torch.no_grad():
        first, far = _long(embedded.model, stream)
        near = _short(embedded.model, stream)
        copies = repeated_sequences(embedded.tokenizer.size)
        previous = best_head(embedded.model, copies, 1, skip=1)
        previous_on_text = best_head(embedded.model, _windows(stream, 16), 1, skip=1)
        induction = best_head(embedded.model, copies, COPY - 1, skip=COPY + 1)
    return Figures(
        bits=(first + far) / len(packed),
        xz_bits=len(compressed) * 8 / len(packed),
        near_bits=near / scored_bytes if scored_bytes else math.nan,
        far_bits=far / scored_bytes if scored_bytes else math.nan,
        previous=previous,
        previous_on_text=previous_on_text,
        induction=induction,
    )


def bits(model: Transformer, hidden: Tensor, targets: Tensor) -> float:
    """The cross-entropy of the targets after these hidden vectors in bits, by blocks of logits."""
    total = 0.0
    for block, block_targets in zip(hidden.split(2048), targets.split(2048), strict=True):
        total += F.cross_entropy(model.logits(block), block_targets, reduction="sum").item()
    return total / math.log(2)


def _long(model: Transformer, stream: Tensor) -> tuple[float, float]:
    """Bits of the first half window, and of all that follows it at positions 16k to 32k."""
    from rich.console import Console
    from rich.progress import track

    total = [0.0, 0.0]
    begins = range(0, len(stream) - 1, HALF)
    # This takes minutes: a long window has 5e8 pairs for each head with full causal attention.
    for begin in track(begins, "long windows", console=Console(stderr=True), transient=True):
        end = min(begin + HALF, len(stream) - 1)
        window = max(begin - HALF, 0)
        hidden = model.hidden(stream[None, window:end])[0, begin - window :]
        total[begin > 0] += bits(model, hidden, stream[begin + 1 : end + 1])
    return total[0], total[1]


def _short(model: Transformer, stream: Tensor) -> float:
    """Bits of the same text at positions 512 to 1024: each half window is scored after the previous one."""
    total = 0.0
    for begin in range(HALF, len(stream) - 1, SKIPPED):
        end = min(begin + SKIPPED, len(stream) - 1)
        hidden = model.hidden(stream[None, begin - SKIPPED : end])[0, SKIPPED:]
        total += bits(model, hidden, stream[begin + 1 : end + 1])
    return total


def _windows(stream: Tensor, count: int) -> Tensor:
    starts = torch.linspace(0, max(len(stream) - SHORT, 0), count).long().tolist()
    return torch.stack([stream[start : start + SHORT] for start in starts])


def repeated_sequences(vocabulary: int, count: int = 8) -> Tensor:
    """Random sequences repeated twice, after the token that begins a file."""
    generator = torch.Generator().manual_seed(COPIES_SEED)
    once = torch.randint(1, vocabulary, (count, COPY), generator=generator)
    return torch.cat((torch.zeros(count, 1, dtype=torch.long), once, once), dim=1)


def best_head(model: Transformer, tokens: Tensor, distance: int, skip: int) -> HeadScore:
    """The head with the most weight at a distance, on average over the queries from `skip` on.

    At the distance ``COPY − 1`` is the token after the earlier copy of a query (an induction head, Olsson
    et al., 2022); at 1 the previous token.
    """
    observer = DistanceMass(distance, distance)
    weights = [seen[observer][:, :, skip:].mean((0, 2)) for seen in model.observe(tokens, observer).layers]
    table = torch.stack(weights)
    layer, head = divmod(int(table.argmax()), table.shape[1])
    return HeadScore(layer, head, float(table[layer, head]))


def main(arguments: list[str] | None = None) -> None:
    """Print the figures, their goals, and the machine."""
    parser = argparse.ArgumentParser(prog="python -m experiments.evaluate", description=__doc__)
    parser.add_argument("--model", type=Path, help="folder of another model; the shipped one if absent")
    options = parser.parse_args(arguments)
    embedded, code = load(options.model), corpus()
    start = time.monotonic()
    result = figures(embedded, code.held_out)
    modules = sorted({source.name.split("/")[0].removesuffix(".py") for source in code.held_out})
    size = sum(len(source.text.encode()) for source in code.held_out)
    drift = result.far_bits / result.near_bits - 1
    rows = (
        ("bits per byte", f"{result.bits:.3f}", "at most 1.40", result.bits <= 1.40),
        ("xz -9e on the same", f"{result.xz_bits:.3f}", "more than the model", result.bits < result.xz_bits),
        ("positions 512-1024", f"{result.near_bits:.3f}", "", True),
        ("positions 16k-32k", f"{result.far_bits:.3f}  ({drift:+.1%})", "within 10 %", abs(drift) <= 0.1),
        ("previous-token head", str(result.previous), "at least 0.8", result.previous.weight >= 0.8),
        ("  on held-out text", str(result.previous_on_text), "", True),
        ("induction head", str(result.induction), "at least 0.5", result.induction.weight >= 0.5),
    )
    print(f"held out: {', '.join(modules)} ({size:,} bytes, Python {platform.python_version()})")
    for name, value, goal, met in rows:
        print(f"{name:<22}{value:<28}{goal}{'' if met else '   MISSED'}")
    print(
        f"made with {', '.join(f'{key} {value}' for key, value in sorted(embedded.facts.items()))}\n"
        f"on {platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__},"
        f" in {time.monotonic() - start:.0f} s"
    )


if __name__ == "__main__":
    main()
