"""Train the embedded model: `python -m experiments.train`.

One seeded run on two cores. The recipe: Muon on matrices and Adam on the rest; a short warm-up, a long
constant rate, a linear fall to zero; sequences that grow from 512 to 2048 tokens; modules take more of the
later batches, their tests more of the earlier ones. Checkpoints are replaced atomically, so an interrupted
run continues with `--resume` from the last one.
"""

from __future__ import annotations

import argparse
import math
import platform
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from experiments.corpus import SourceFile, corpus
from regard.models import TOKENIZER, WEIGHTS
from regard.models.model import build
from regard.models.tokenizer import BytePairTokenizer, train_tokenizer
from regard.nn import Transformer
from regard.system.atomic_files import AtomicFile

WORKERS = 2
WARM_UP, FALL = 40, 0.55
MATRIX_RATE, OTHER_RATE, TABLE_RATE = 0.02, 0.006, 0.02
MOMENTUM = 0.95


@dataclass(frozen=True)
class Stage:
    """From step `start` on: batches of `batch` sequences of this length."""

    start: int
    length: int
    batch: int


STAGES = (Stage(0, 512, 8), Stage(870, 1024, 8), Stage(1800, 2048, 4))


class Batches:
    """Windows of the corpus without replacement, in an order that depends on the seed alone."""

    def __init__(self, modules: Tensor, tests: Tensor, seed: int) -> None:
        self.streams = (modules, tests)
        self.generator = torch.Generator().manual_seed(seed)
        self.queues: dict[tuple[int, int], list[int]] = {}

    def draw(self, step: int) -> tuple[int, list[tuple[int, int]]]:
        """The length of the sequences of a step, and the stream and start of each."""
        stage = max((s for s in STAGES if s.start <= step), key=lambda s: s.start)
        share = min(0.35 + 0.45 * step / 2900, 0.8)  # of modules; the rest are tests
        picks = list[tuple[int, int]]()
        for _ in range(stage.batch):
            stream = int(torch.rand((), generator=self.generator) >= share)
            picks.append((stream, self._next(stream, stage.length)))
        return stage.length, picks

    def _next(self, stream: int, length: int) -> int:
        queue = self.queues.setdefault((stream, length), [])
        if not queue:
            # The next pass has other window boundaries and another order.
            last = len(self.streams[stream]) - length - 1
            shift = int(torch.randint(length, (), generator=self.generator))
            starts = range(shift, last, length)
            order = torch.randperm(len(starts), generator=self.generator).tolist()
            queue.extend(starts[i] for i in order)
        return queue.pop()

    def tokens(self, length: int, picks: list[tuple[int, int]]) -> Tensor:
        """The picked windows with one more token each, for the targets."""
        return torch.stack([self.streams[s][i : i + length + 1] for s, i in picks]).long()


class Muon:
    """Orthogonalized momentum: each step moves all directions of a matrix equally (Jordan et al., 2024).

    `torch.optim.Muon` works in bfloat16, which a processor without it does slowly; this is float32, and
    iterates on the small Gram matrix.
    """

    def __init__(self, matrices: list[Tensor]) -> None:
        self.matrices = matrices
        self.momenta = [torch.zeros_like(m) for m in matrices]

    def step(self, gradients: list[Tensor], rate: float, pool: ThreadPoolExecutor) -> None:
        """Move every matrix against its gradient."""

        def move(matrix: Tensor, momentum: Tensor, gradient: Tensor) -> None:
            with torch.no_grad():
                momentum.lerp_(gradient, 1 - MOMENTUM)
                update = orthogonal(gradient.lerp(momentum, MOMENTUM))
                tall = max(1.0, matrix.shape[0] / matrix.shape[1]) ** 0.5
                matrix.add_(update, alpha=-rate * tall)

        list(pool.map(move, self.matrices, self.momenta, gradients))


def orthogonal(matrix: Tensor) -> Tensor:
    """Approximately the closest matrix with singular values 1, by five Newton-Schulz steps."""
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    x = wide / (wide.norm() + 1e-7)
    for _ in range(5):
        gram = x @ x.T
        x = torch.addmm(3.4445 * x, torch.addmm(-4.775 * gram, gram, gram, beta=1, alpha=2.0315), x)
    return x if matrix.shape[0] <= matrix.shape[1] else x.T


def rate_at(step: int, steps: int) -> float:
    """The share of the full learning rate at a step."""
    return min(1.0, (step + 1) / WARM_UP, max((1 - step / steps) / FALL, 0.0))


class Training:
    """A training run: a model, its optimizers, and the number of steps so far."""

    def __init__(self, vocabulary: int, steps: int, seed: int) -> None:
        torch.manual_seed(seed)
        self.model = build(vocabulary)
        self.steps, self.seed, self.step = steps, seed, 0
        named = dict(self.model.named_parameters())
        is_matrix = {
            name: p.ndim == 2 and name.endswith(".weight") and "embedding" not in name for name, p in named.items()
        }
        self.matrices = [p for name, p in named.items() if is_matrix[name]]
        tables = [p for name, p in named.items() if name.endswith(".table")]
        self.others = [p for name, p in named.items() if not is_matrix[name]]
        self.muon = Muon(list(self.matrices))
        plain = [p for p in self.others if all(p is not t for t in tables)]
        self.adam = torch.optim.Adam(
            [{"params": plain, "full": OTHER_RATE}, {"params": tables, "full": TABLE_RATE}],
            betas=(0.8, 0.95),
            eps=1e-10,
        )
        self.pool = ThreadPoolExecutor(WORKERS, initializer=torch.set_num_threads, initargs=(1,))

    def update(self, tokens: Tensor) -> float:
        """One step on a batch; the loss in nats per token.

        Each worker thread takes a share of the batch on one core: on small matrices that is faster than
        two cores on one operation, especially when another program uses one of them.
        """
        parameters = self.matrices + self.others
        parts = tokens.chunk(WORKERS)

        def gradients(part: Tensor) -> tuple[float, tuple[Tensor, ...]]:
            hidden = self.model.hidden(part[:, :-1])
            loss = F.cross_entropy(self.model.logits(hidden).flatten(0, 1), part[:, 1:].flatten())
            loss = loss * (len(part) / len(tokens))
            return loss.item(), torch.autograd.grad(loss, parameters)

        losses, per_part = zip(*self.pool.map(gradients, parts), strict=True)
        total = [torch.stack(shares).sum(0) for shares in zip(*per_part, strict=True)]
        rate = rate_at(self.step, self.steps)
        count = len(self.matrices)
        self.muon.step(total[:count], MATRIX_RATE * rate, self.pool)
        for parameter, gradient in zip(self.others, total[count:], strict=True):
            parameter.grad = gradient
        for group in self.adam.param_groups:
            group["lr"] = group["full"] * rate
        self.adam.step()
        self.step += 1
        return sum(losses)

    def save(self, path: Path) -> None:
        """Write a checkpoint atomically."""
        state = {
            "model": self.model.state_dict(),
            "momenta": self.muon.momenta,
            "adam": self.adam.state_dict(),
            "step": self.step,
            "seed": self.seed,
        }
        with AtomicFile(path) as target:
            torch.save(state, target.file)
            target.commit()

    def load(self, path: Path) -> None:
        """Continue from a checkpoint."""
        state: dict[str, Any] = torch.load(path)
        self.model.load_state_dict(state["model"])
        for momentum, saved in zip(self.muon.momenta, state["momenta"], strict=True):
            momentum.copy_(saved)
        self.adam.load_state_dict(state["adam"])
        self.step = state["step"]


@torch.no_grad()
def bits_per_token(model: Transformer, stream: Tensor, length: int = 1024, windows: int = 8) -> float:
    """A fast estimate on held-out text during training: some windows spread over it."""
    starts = torch.linspace(0, len(stream) - length - 1, windows).long().tolist()
    total = 0.0
    for start in starts:
        part = stream[start : start + length + 1].long()[None]
        logits = model.logits(model.hidden(part[:, :-1]))
        total += F.cross_entropy(logits[0], part[0, 1:]).item()
    return total / windows / math.log(2)


def streams(tokenizer: BytePairTokenizer, sources: tuple[SourceFile, ...]) -> Tensor:
    """Sources one after the other as one stream, each after the token that begins a file."""
    parts = [torch.tensor(tokenizer.file_ids(source.text), dtype=torch.int32) for source in sources]
    return torch.cat(parts)


def export(model: Transformer, facts: dict[str, str], path: Path) -> None:
    """Write a model's tensors in half precision, with the facts of its training."""
    from safetensors.torch import save_file

    state = {name: tensor.half().contiguous() for name, tensor in model.state_dict().items()}
    save_file(state, str(path), metadata=facts)
    path.chmod(0o644)  # safetensors writes files that only their owner can read


def main(arguments: list[str] | None = None) -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(prog="python -m experiments.train", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("model"), help="folder for the files")
    parser.add_argument("--steps", type=int, default=2200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--resume", action="store_true", help="continue from the checkpoint in --out")
    options = parser.parse_args(arguments)
    out: Path = options.out
    out.mkdir(parents=True, exist_ok=True)

    code = corpus()
    if not (out / TOKENIZER).exists():
        train_tokenizer([source.text for source in code.train]).save(str(out / TOKENIZER))
    tokenizer = BytePairTokenizer.open(out / TOKENIZER)
    modules = streams(tokenizer, tuple(s for s in code.train if not s.is_test))
    tests = streams(tokenizer, tuple(s for s in code.train if s.is_test))
    held_out = streams(tokenizer, code.held_out)
    bytes_per_token = sum(len(s.text.encode()) for s in code.held_out) / len(held_out)
    print(f"{len(modules):,} tokens of modules, {len(tests):,} of tests, {len(held_out):,} held out", flush=True)

    run = Training(tokenizer.size, options.steps, options.seed)
    checkpoint = out / "checkpoint.pt"
    if options.resume:
        run.load(checkpoint)
    batches = Batches(modules, tests, options.seed)
    for step in range(run.step):
        batches.draw(step)  # the order depends on the seed: skip the batches of earlier steps
    train(run, batches, held_out, bytes_per_token, checkpoint)
    facts = {"python": platform.python_version(), "seed": str(run.seed), "steps": str(run.steps)}
    export(run.model, facts, out / WEIGHTS)
    print(f"wrote {out / WEIGHTS}")


def train(run: Training, batches: Batches, held_out: Tensor, bytes_per_token: float, checkpoint: Path) -> None:
    """Run the remaining steps, with a progress bar, a line now and then, and checkpoints."""
    from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    smooth, processed, start = None, 0, time.monotonic()
    columns = (
        *Progress.get_default_columns()[:2],
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[state]}"),
    )
    with Progress(*columns) as progress:
        task = progress.add_task("training", total=run.steps, completed=run.step, state="")
        while run.step < run.steps:
            length, picks = batches.draw(run.step)
            loss = run.update(batches.tokens(length, picks)) / math.log(2) / bytes_per_token
            smooth = loss if smooth is None else 0.95 * smooth + 0.05 * loss
            processed += length * len(picks)
            speed = processed / (time.monotonic() - start)
            state = f"{smooth:.3f} bits/byte, {speed:,.0f} tokens/s"
            progress.update(task, completed=run.step, state=state)
            if run.step % 20 == 0:
                progress.console.print(f"{time.strftime('%T')} step {run.step}/{run.steps} {state}")
            if run.step % 100 == 0 or run.step == run.steps:
                run.save(checkpoint)
            if run.step % 250 == 0 or run.step == run.steps:
                held_out_bits = bits_per_token(run.model, held_out) / bytes_per_token
                progress.console.print(f"step {run.step}: held-out {held_out_bits:.4f} bits/byte at 1024 tokens")
    print(f"trained {run.step} steps in {(time.monotonic() - start) / 60:.1f} minutes")


if __name__ == "__main__":
    main()
