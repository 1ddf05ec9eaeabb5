"""What is written of each layer that attends: as it comes, one at a time."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from regard.attend import observe_spec
from regard.capture.interceptor import InterceptedCall
from regard.capture.watch import place_of
from regard.errors import OptionError, ShapeError
from regard.lowering.tiles import Tabled
from regard.problem import sizes_of
from regard.recording.container import Writer
from regard.recording.inputs import Inputs, about_of, numbers_of
from regard.recording.schema import form_of, has_form
from regard.recording.text import Rounding, size_in_words
from regard.shapes import Keys, Queries, Sizes
from regard.spec.attention_spec import AttentionSpec
from regard.spec.biases import Bias, Dense, Nothing, Relative, Sum
from regard.spec.masks import Mask
from regard.spec.observers import LogSumExp, Rows
from regard.spec.scores import Score
from regard.spec.values import Value

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""What queries and keys may be stored in, by the names that the command takes."""
_KEPT = frozenset(DTYPES.values())

ROWS, PAIRS = 16, 1 << 23
"""Queries of each head whose weights are held against the run's, and the most pairs that these may have."""

SMALLER = "Free some, write elsewhere, or record less: layers=…, dtype=torch.float16, no values."


class NothingRecorded(OptionError):
    """No layer of a model called `regard.attention`."""


class Progress(NamedTuple):
    """Where a recording stands, before a layer is written."""

    layer: str
    done: int
    """Layers that are written."""
    layers: int
    """How many there will be, as far as the model's modules tell."""
    whole: int
    """Bytes that the file will have, if the other layers are like this one."""
    free: int
    """Bytes that the disk has left."""


@dataclass(frozen=True)
class Words:
    """What a model is called with, in characters."""

    text: str | None = None
    tokens: Sequence[str] | None = None
    spans: Sequence[tuple[int, int]] | None = None

    def __post_init__(self) -> None:
        if self.spans is not None and self.text is None:
            raise OptionError("record(spans=…)", "spans without a text", "both, or none", "Give text=… too.")


class Pages:
    """A recording that is being written, a layer after another.

    Args:
        writer: The file.
        dtype: In which numbers are kept; None is what each layer computes in.
        values: Whether values are kept too.
        progress: Told of each layer before it is written.
    """

    def __init__(
        self,
        writer: Writer,
        dtype: torch.dtype | None = None,
        values: bool = False,
        progress: Callable[[Progress], None] | None = None,
    ) -> None:
        self.writer, self.dtype, self.values, self.progress = writer, dtype, values, progress
        self.layers: list[dict[str, Any]] = []
        self.named: dict[str, int] = {}

    def put(self, call: InterceptedCall, layers: int = 1, inputs: Inputs | None = None) -> Tensor:
        """Write a call of a layer, and return what `attention` would.

        `layers` is how many there will be, and `inputs` what the layer read, where that is kept.
        """
        name, q, k, v = call.layer, call.q, call.k, call.v
        sizes = sizes_of(q, k, v)
        if 0 in sizes[:6]:
            raise ShapeError(
                "record",
                f"{name}, a call of sizes {tuple(sizes[:6])}",
                "sizes of at least 1",
                "Record a run over some text.",
            )
        mask, bias, score, normalizer = call.spec.parts
        place = place_of(None, sizes.q, sizes.k, mask) if call.place is None else call.place
        rows = sampled_rows(sizes)
        dtype = self.dtype or (q.dtype if q.dtype in _KEPT else torch.float32)
        rounds = dtype != q.dtype
        seen = call.observe(LogSumExp(), *([Rows(*rows)] if rounds else ()))
        plain_q, plain_k, plain_score = _plain_score(name, q, k, score)
        for part, value in (("normalizer", normalizer), ("score", plain_score)):
            if not has_form(value):
                raise _wordless(name, part, value)
        if plain_q is not q:  # a score's own numbers, which no map of the layer gave
            inputs = None
        self._announce(name, sizes, dtype, layers, 0 if inputs is None else numbers_of(inputs))
        number = len(self.layers)
        for part, tensor in (("q", plain_q), ("k", plain_k), *((("v", v),) if self.values else ())):
            self.writer.put(f"layers/{number}/{part}", tensor, dtype)
        lse, rounding = seen[LogSumExp()], None
        if rounds:
            lse, rounding = _rounding(
                seen[Rows(*rows)], rows, plain_q, plain_k, dtype, call.spec.changed(score=plain_score, dropout=0.0)
            )
        self.writer.put(f"layers/{number}/lse", lse, torch.float32)
        hold = self.writer.hold

        def hold_rounded(tensor: Tensor) -> str:
            return hold(tensor, self.dtype or (tensor.dtype if tensor.dtype in _KEPT else torch.float32))

        again = self.named[name] = self.named.get(name, 0) + 1
        self.layers.append(
            {
                "name": name if again == 1 else f"{name}:{again}",
                "place": list(place),
                "rounding": rounding and rounding.__dict__,
                "mask": form_of(_plain_mask(mask, sizes), hold),
                "bias": form_of(_plain_bias(bias, sizes), hold),
                "score": form_of(plain_score, hold),
                "normalizer": form_of(normalizer, hold),
                "inputs": None if inputs is None else about_of(inputs, hold_rounded),
            }
        )
        return seen.out

    def finish(self, name: str, words: Words) -> None:
        """Write the text, and what there is to say of the run."""
        if not self.layers:
            raise NothingRecorded(
                "record",
                "a model none of whose wanted layers called regard.attention",
                "models of transformers that take attn_implementation, regard.nn, and your own",
                "Check layers=…; a model that computes attention by itself must call regard.attention.",
            )
        if words.text is not None:
            self.writer.put("tokens/text", _bytes(words.text.encode("utf-8", "replace")))
        if words.tokens is not None:
            texts = [token.encode("utf-8", "replace") for token in words.tokens]
            self.writer.put("tokens/texts", _bytes(b"".join(texts)))
            self.writer.put("tokens/ends", torch.tensor([len(t) for t in texts], dtype=torch.int64).cumsum(0))
        if words.spans is not None:
            self.writer.put("tokens/spans", torch.tensor(list(words.spans), dtype=torch.int64).reshape(-1, 2))
        about = {"model": name, "versions": _versions(), "text": words.text is not None, "layers": self.layers}
        self.writer.finish(about, {"regard": about["versions"]["regard"]})

    def _announce(self, name: str, sizes: Sizes, dtype: torch.dtype, layers: int, more: int) -> None:
        """Tell how large the file will be, and refuse what the disk cannot hold."""
        numbers = sizes.b * (sizes.h * sizes.q * sizes.d + sizes.g * sizes.k * sizes.d)
        numbers += sizes.b * sizes.g * sizes.k * sizes.dv * self.values + more
        mine = numbers * dtype.itemsize + 4 * sizes.b * sizes.h * sizes.q
        done = len(self.layers)
        layers = max(layers, done + 1)
        free = shutil.disk_usage(self.writer.path.parent).free
        left = mine * (layers - done)
        if self.progress is not None:
            self.progress(Progress(name, done, layers, self.writer.size + left, free))
        if left > free:
            raise OptionError(
                "record(to=…)",
                f"{self.writer.path}, where {size_in_words(free)} are free",
                f"a disk with the {size_in_words(left)} that are still to be written",
                SMALLER,
            )


def sampled_rows(sizes: Sizes) -> tuple[int, ...]:
    """The queries whose weights are held against those before rounding: spread evenly, to the last."""
    most = PAIRS // (sizes.b * sizes.h * sizes.k)
    count = max(min(ROWS, most, sizes.q), 1)
    return tuple((i + 1) * sizes.q // count - 1 for i in range(count))


def _rounding(
    live: Tensor, rows: tuple[int, ...], q: Queries, k: Keys, dtype: torch.dtype, spec: AttentionSpec
) -> tuple[Tensor, Rounding]:
    """The log-sum-exp of rounded queries and keys, and how far their weights are from the run's."""
    q, k = q.to(dtype), k.to(dtype)
    seen = observe_spec(q, k, k[..., :1], (LogSumExp(), Rows(*rows)), spec)
    now, before = seen[Rows(*rows)].double(), live.double()
    apart = torch.where(now.isnan() & before.isnan(), 0, (now - before).abs())
    if not apart.isfinite().all():
        kind = str(dtype).removeprefix("torch.")
        raise OptionError(
            "record(dtype=…)",
            f"{kind}, in which weights are no numbers any more",
            "a dtype that holds queries and keys",
            "bfloat16 reaches as far as float32.",
        )
    return seen[LogSumExp()], Rounding(float(apart.amax()), float(apart.square().mean().sqrt()), len(rows))


def _plain_score(name: str, q: Queries, k: Keys, score: Score) -> tuple[Queries, Keys, Score]:
    """Queries, keys and a score that can be written: that of the call, or the dot product that it is."""
    if has_form(score):
        return q, k, score
    if score.components(q.shape[3]) is None:
        raise _wordless(name, "score", score)
    q, k, score = score.as_dot(q, k)
    return q, k, score


def _plain_mask(mask: Mask, sizes: Sizes) -> Mask:
    """A mask that can be written: in words, where it does not hold a number for each pair; else lowered."""
    pairs = max(sizes.q * sizes.k, 4096)
    if has_form(mask) and all(t.numel() < pairs for t in mask.tensors()):
        return mask
    return Tabled.of(mask, sizes)


def _plain_bias(bias: Bias, sizes: Sizes) -> Bias:
    """A bias that can be written: in words, or by distance and for each pair."""
    if has_form(bias):
        return bias
    table, pairs = bias.bind(sizes).lowered(sizes)
    made: Bias = Nothing() if pairs is None else Dense(pairs)
    if table is None:
        return made
    most = max(sizes.q, sizes.k) - 1
    wide = nn.functional.pad(table.expand(sizes.h, -1), (most - sizes.k + 1, most - sizes.q + 1))
    return Sum(Relative(wide, offset=0), made)


def _wordless(name: str, part: str, value: Value) -> OptionError:
    return OptionError(
        "record",
        f"{name}, whose {part} is {value!r}",
        "what regard itself has: Dot, Cosine, Euclidean, Additive, Shaw; Softmax and its kin",
        "A file holds no functions: leave the layer out with layers=…",
    )


def _versions() -> dict[str, str]:
    from importlib import metadata

    found = {"python": platform.python_version()}
    for library in ("regard", "torch", "transformers"):
        try:
            found[library] = metadata.version(library)
        except metadata.PackageNotFoundError:
            continue
    return found


def _bytes(data: bytes) -> Tensor:
    return torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else torch.zeros(0, dtype=torch.uint8)
