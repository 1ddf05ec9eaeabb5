"""Writing a recording: each layer when it is called, one at a time."""

from __future__ import annotations

import dataclasses
import platform
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypedDict

import torch
from torch import Tensor, nn

from regard.attend import observe_spec
from regard.capture.interceptor import InterceptedCall
from regard.capture.watch import position_of
from regard.errors import OptionError, ShapeError
from regard.lowering.tiles import Tabled
from regard.problem import sizes_of
from regard.recording.container import TensorFileWriter
from regard.recording.inputs import Inputs, inputs_to_json, numel
from regard.recording.schema import JsonValue, can_serialize, to_json
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
_STORABLE = frozenset(DTYPES.values())

ROWS, PAIRS = 16, 1 << 23
"""Queries of each head whose weights are compared with the run's, and the most pairs that these may have."""

SMALLER = "Free some, write elsewhere, or record less: layers=…, dtype=torch.float16, no values."


class NothingRecorded(OptionError):
    """No layer of a model called `regard.attention`."""


class Progress(NamedTuple):
    """How far a recording is, before a layer is written."""

    layer: str
    done: int
    """Layers that are written already."""
    layers: int
    """How many there will be, as far as the model's modules tell."""
    whole: int
    """Bytes that the file will have, if the other layers are like this one."""
    free: int
    """Bytes that the disk has left."""


@dataclass(frozen=True)
class RecordedText:
    """What a recording has of the text of its inputs."""

    text: str | None = None
    tokens: Sequence[str] | None = None
    spans: Sequence[tuple[int, int]] | None = None

    def __post_init__(self) -> None:
        if self.spans is not None and self.text is None:
            raise OptionError("record(spans=…)", "spans without a text", "both, or none", "Give text=… too.")


class _LayerDescription(TypedDict):
    """A layer in the JSON of the header; `layer.layer_of` reads it."""

    name: str
    place: list[int]
    rounding: dict[str, float] | None
    mask: JsonValue
    bias: JsonValue
    score: JsonValue
    normalizer: JsonValue
    inputs: JsonValue | None


class RecordingWriter:
    """Writes a recording, a layer after another.

    Args:
        file: The file.
        dtype: In which queries, keys and values are stored; None is what each layer computes in.
        values: Whether values are stored too.
        progress: Called before each layer is written.
    """

    def __init__(
        self,
        file: TensorFileWriter,
        dtype: torch.dtype | None = None,
        values: bool = False,
        progress: Callable[[Progress], None] | None = None,
    ) -> None:
        self.file, self.dtype, self.values, self.progress = file, dtype, values, progress
        self.layers: list[_LayerDescription] = []
        self.counts: dict[str, int] = {}

    def write_layer(self, call: InterceptedCall, layers: int = 1, inputs: Inputs | None = None) -> Tensor:
        """Write a call of a layer, and return what `attention` would.

        `layers` is how many there will be; `inputs` are the layer's, where they are kept.
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
        position = call.position or position_of(None, sizes.q, sizes.k, mask)
        rows = Rows(*sampled_rows(sizes))
        dtype = self.dtype or _storage_dtype(q)
        rounds = dtype != q.dtype
        seen = call.observe(LogSumExp(), *([rows] if rounds else ()))
        plain_q, plain_k, plain_score = _plain_score(name, q, k, score)
        for part, value in (("normalizer", normalizer), ("score", plain_score)):
            if not can_serialize(value):
                raise _not_serializable(name, part, value)
        if plain_q is not q:  # a score's own numbers, which no map of the layer computed
            inputs = None
        self._check_space(name, sizes, dtype, layers, 0 if inputs is None else numel(inputs))
        number = len(self.layers)
        for part, tensor in (("q", plain_q), ("k", plain_k), *((("v", v),) if self.values else ())):
            self.file.put(f"layers/{number}/{part}", tensor, dtype)
        lse, rounding = seen[LogSumExp()], None
        if rounds:
            lse, rounding = _rounding(
                seen[rows], rows, plain_q, plain_k, dtype, call.spec.changed(score=plain_score, dropout=0.0)
            )
        self.file.put(f"layers/{number}/lse", lse, torch.float32)
        put = self.file.put_shared

        def put_rounded(tensor: Tensor) -> str:
            return put(tensor, self.dtype or _storage_dtype(tensor))

        count = self.counts[name] = self.counts.get(name, 0) + 1
        self.layers.append(
            {
                "name": name if count == 1 else f"{name}:{count}",
                "place": list(position),
                "rounding": rounding and dataclasses.asdict(rounding),
                "mask": to_json(_plain_mask(mask, sizes), put),
                "bias": to_json(_plain_bias(bias, sizes), put),
                "score": to_json(plain_score, put),
                "normalizer": to_json(normalizer, put),
                "inputs": None if inputs is None else inputs_to_json(inputs, put_rounded),
            }
        )
        return seen.out

    def finish(self, name: str, recorded: RecordedText) -> None:
        """Write the text and the description of the run, and complete the file."""
        if not self.layers:
            raise NothingRecorded(
                "record",
                "a model none of whose selected layers called regard.attention",
                "models of transformers that take attn_implementation, regard.nn, and your own",
                "Check layers=…; a model that computes attention by itself must call regard.attention.",
            )
        if recorded.text is not None:
            self.file.put("tokens/text", _bytes(recorded.text.encode("utf-8", "replace")))
        if recorded.tokens is not None:
            texts = [token.encode("utf-8", "replace") for token in recorded.tokens]
            self.file.put("tokens/texts", _bytes(b"".join(texts)))
            self.file.put("tokens/ends", torch.tensor([len(t) for t in texts], dtype=torch.int64).cumsum(0))
        if recorded.spans is not None:
            self.file.put("tokens/spans", torch.tensor(list(recorded.spans), dtype=torch.int64).reshape(-1, 2))
        about = {"model": name, "versions": _versions(), "text": recorded.text is not None, "layers": self.layers}
        self.file.finish(about, {"regard": about["versions"]["regard"]})

    def _check_space(self, name: str, sizes: Sizes, dtype: torch.dtype, layers: int, more: int) -> None:
        """Report how large the file will be.

        Raises:
            OptionError: the disk has not enough space.
        """
        numbers = sizes.b * (sizes.h * sizes.q * sizes.d + sizes.g * sizes.k * sizes.d)
        numbers += sizes.b * sizes.g * sizes.k * sizes.dv * self.values + more
        size = numbers * dtype.itemsize + 4 * sizes.b * sizes.h * sizes.q
        done = len(self.layers)
        layers = max(layers, done + 1)
        free = shutil.disk_usage(self.file.path.parent).free
        left = size * (layers - done)
        if self.progress is not None:
            self.progress(Progress(name, done, layers, self.file.size + left, free))
        if left > free:
            raise OptionError(
                "record(to=…)",
                f"{self.file.path}, where {size_in_words(free)} are free",
                f"a disk with the {size_in_words(left)} that are still to be written",
                SMALLER,
            )


def sampled_rows(sizes: Sizes) -> tuple[int, ...]:
    """The queries whose weights are compared with those before rounding: spread evenly, to the last."""
    most = PAIRS // (sizes.b * sizes.h * sizes.k)
    count = max(min(ROWS, most, sizes.q), 1)
    return tuple((i + 1) * sizes.q // count - 1 for i in range(count))


def _rounding(
    exact: Tensor, rows: Rows, q: Queries, k: Keys, dtype: torch.dtype, spec: AttentionSpec
) -> tuple[Tensor, Rounding]:
    """The log-sum-exp of rounded queries and keys, and how far their weights are from the run's."""
    q, k = q.to(dtype), k.to(dtype)
    seen = observe_spec(q, k, k[..., :1], (LogSumExp(), rows), spec)
    rounded, exact = seen[rows].double(), exact.double()
    difference = torch.where(rounded.isnan() & exact.isnan(), 0, (rounded - exact).abs())
    if not difference.isfinite().all():
        name = str(dtype).removeprefix("torch.")
        raise OptionError(
            "record(dtype=…)",
            f"{name}, in which weights are not finite",
            "a dtype whose range is enough for queries and keys",
            "bfloat16 reaches as far as float32.",
        )
    return seen[LogSumExp()], Rounding(
        float(difference.amax()), float(difference.square().mean().sqrt()), len(rows.queries)
    )


def _plain_score(name: str, q: Queries, k: Keys, score: Score) -> tuple[Queries, Keys, Score]:
    """Queries, keys and a score that can be written: that of the call, or the dot product that it is."""
    if can_serialize(score):
        return q, k, score
    if score.components(q.shape[3]) is None:
        raise _not_serializable(name, "score", score)
    q, k, score = score.as_dot(q, k)
    return q, k, score


def _plain_mask(mask: Mask, sizes: Sizes) -> Mask:
    """A mask that can be written: as it is, where no tensor of it has a number for each pair; else lowered."""
    pairs = max(sizes.q * sizes.k, 4096)
    if can_serialize(mask) and all(t.numel() < pairs for t in mask.tensors()):
        return mask
    return Tabled.of(mask, sizes)


def _plain_bias(bias: Bias, sizes: Sizes) -> Bias:
    """A bias that can be written: as it is, or as a table by distance and numbers for each pair."""
    if can_serialize(bias):
        return bias
    table, pairs = bias.bind(sizes).lowered(sizes)
    rest: Bias = Nothing() if pairs is None else Dense(pairs)
    if table is None:
        return rest
    most = max(sizes.q, sizes.k) - 1
    wide = nn.functional.pad(table.expand(sizes.h, -1), (most - sizes.k + 1, most - sizes.q + 1))
    return Sum(Relative(wide, offset=0), rest)


def _not_serializable(name: str, part: str, value: Value) -> OptionError:
    return OptionError(
        "record",
        f"{name}, whose {part} is {value!r}",
        "those of regard itself: Dot, Cosine, Euclidean, Additive, Shaw; Softmax and its kin",
        "A file holds no functions: leave the layer out with layers=…",
    )


def _versions() -> dict[str, str]:
    from importlib import metadata

    versions = {"python": platform.python_version()}
    for library in ("regard", "torch", "transformers"):
        try:
            versions[library] = metadata.version(library)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _storage_dtype(tensor: Tensor) -> torch.dtype:
    return tensor.dtype if tensor.dtype in _STORABLE else torch.float32


def _bytes(data: bytes) -> Tensor:
    return torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else torch.zeros(0, dtype=torch.uint8)
