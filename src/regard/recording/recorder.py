"""Recording a run: each layer's queries, keys and log-sum-exp are written as it is called."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from regard.capture.interceptor import InterceptedCall, Interceptor, use_regard
from regard.errors import DtypeError, OptionError, ShapeError
from regard.integrations.tokenized_text import TokenizedText
from regard.problem import sizes_of
from regard.recording.container import TensorFileWriter
from regard.recording.inputs import ProjectionHooks
from regard.recording.reader import Recording
from regard.recording.writer import DTYPES, SMALLER, Progress, RecordedText, RecordingWriter
from regard.spec.attention_spec import AttentionSpec
from regard.system.atomic_files import disk_full

if TYPE_CHECKING:  # what not everybody needs, and takes time to import
    from regard.models import Embedded


def record(
    model: nn.Module | Embedded,
    inputs: str | Tensor | Mapping[str, Any] | Sequence[Any],
    *,
    to: str | Path,
    tokenizer: Any = None,
    text: str | None = None,
    tokens: Sequence[str] | None = None,
    spans: Sequence[tuple[int, int]] | None = None,
    name: str | None = None,
    dtype: torch.dtype | None = None,
    values: bool = False,
    layer_inputs: bool = False,
    layers: str | int | Sequence[str | int] | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Recording:
    """Run a model once and keep its attention in a file, of which any statistic can be computed later.

    For each layer the file holds queries, keys and the log-sum-exp of each row, with mask, bias, score and
    normalizer: from these every weight follows. It grows with the length of the text, not with its square,
    and is written as the layers run, so that never more than one of them is in memory. It replaces a file
    that is there when it is complete, not before.

    Args:
        model: As `watch` takes it, or an embedded model, `regard.models.load()`.
        inputs: What the model is called with: a tensor of token ids, a mapping (``model(**inputs)``), or a
            sequence (``model(*inputs)``); or a text, with a tokenizer. The model is called once: of what
            `generate` does, record one pass over the whole text.
        to: Where the file will be; a file that is there is replaced.
        tokenizer: A fast tokenizer of transformers, for `inputs` that are a text.
        text, tokens, spans: What the inputs are in characters, for those who read the recording: the whole
            text, each token's own, and its (start, stop) in the text. Tokens are those of one row.
        name: What the model is called.
        dtype: In which queries, keys and values are kept; None is what the model computes in, or float32. In
            another the weights are rounded; the recording says how much.
        values: Whether values are kept too, for outputs.
        layer_inputs: Whether what each layer read is kept too, with its maps to queries, keys, values and
            back, where the names of its projections are known (`regard.convert`): for `inputs` of a layer.
        layers: Which layers, as in `watch`.
        progress: Called before each layer is written, and so with the size before anything is.

    Raises:
        OptionError: no layer attended by regard; a score that is a function; the disk has no room.

    >>> import tempfile
    >>> from regard import Entropy, models, record
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     run = record(models.load(), "def f(x):\\n    return x", to=f"{folder}/run.safetensors")
    ...     run.tokens[1:4], run.layer(4).see(Entropy())[Entropy()].shape
    (('def', ' f', '('), torch.Size([1, 6, 9]))
    """
    dtype, path = _checked_dtype(dtype), _checked_path(to)
    arguments, recorded_text = _tokenized(model, inputs, tokenizer, RecordedText(text, tokens, spans))
    module = model if isinstance(model, nn.Module) else getattr(model, "model", model)
    if not isinstance(module, nn.Module):
        raise DtypeError(
            "record(model)",
            f"a {type(module).__name__}",
            "a module of PyTorch",
            "Give the model first, then its inputs.",
        )
    with open_writer(path, 8192 + 256 * sum(1 for _ in module.modules())) as file, torch.no_grad():
        writer = RecordingWriter(file, dtype, values, progress)
        projections = ProjectionHooks(module) if layer_inputs else None
        recorder = _Recorder(writer, module, layers, projections)
        with use_regard(module), recorder.on(module), projections.on() if projections else nullcontext():
            _run(module, arguments)
        writer.finish(name or (_name(module) if module is model else "python"), recorded_text)
    return Recording.open(path)


def record_tensors(
    q: Tensor | Sequence[Tensor],
    k: Tensor | Sequence[Tensor],
    v: Tensor | Sequence[Tensor] | None,
    spec: AttentionSpec,
    to: str | Path,
    name: str,
    text: RecordedText,
    dtype: torch.dtype | None,
) -> Recording:
    """Write queries and keys from elsewhere as `record` would: see `Recording.of`."""
    queries, keys = _several(q), _several(k)
    values = keys if v is None else _several(v)
    if not len(queries) == len(keys) == len(values) or not queries:
        counts = f"{len(queries)}, {len(keys)} and {len(values)} layers"
        raise ShapeError(
            "Recording.of(q, k, v)",
            counts,
            "as many of each, at least one",
            "Give one tensor each, or lists of the same length.",
        )
    dtype, path = _checked_dtype(dtype), _checked_path(to)
    with open_writer(path, 8192 + 256 * len(queries)) as file, torch.no_grad():
        writer = RecordingWriter(file, dtype, v is not None)
        for i, layer in enumerate(zip(queries, keys, values, strict=True)):
            sizes = sizes_of(*layer)
            if text.tokens is not None and len(text.tokens) != max(sizes.q, sizes.k):
                given = f"{len(text.tokens)} for {sizes.q} queries and {sizes.k} keys"
                raise ShapeError(
                    "Recording.of(tokens=…)", given, "one for each key", "Leave them out, or give each its own."
                )
            writer.write_layer(InterceptedCall(f"layer {i}", *layer, spec, "auto", None), len(queries))
        writer.finish(name, text)
    return Recording.open(path)


def _several(given: Tensor | Sequence[Tensor]) -> Sequence[Tensor]:
    return [given] if isinstance(given, Tensor) else given


@contextmanager
def open_writer(path: Path, room: int) -> Iterator[TensorFileWriter]:
    """A new file, with so many bytes for its header.

    Raises:
        OptionError: the disk is full.
    """
    try:
        with TensorFileWriter(path, min(room, 1 << 22)) as file:
            yield file
    except OSError as error:
        if not disk_full(error):
            raise
        raise OptionError(
            "record(to=…)", f"{path}, whose disk is full", "a disk with room", f"{SMALLER} What was there is as it was."
        ) from error


def _tokenized(model: Any, inputs: Any, tokenizer: Any, given: RecordedText) -> tuple[Any, RecordedText]:
    """A text as a model's inputs; all else as it is."""
    if not isinstance(inputs, str):
        return inputs, given
    from regard.models import Embedded

    if isinstance(model, Embedded):
        tokens = model.tokenizer.encode_file(inputs)
        return torch.tensor([tokens.ids]), RecordedText(inputs, tokens.texts, tokens.spans)
    if tokenizer is None:
        raise OptionError(
            "record(inputs)", "a text", "token ids, or a text with a tokenizer", "Give tokenizer=…, the model's own."
        )
    encoding = tokenizer(inputs, return_offsets_mapping=True)
    tokens = TokenizedText.of_encoding(tokenizer, inputs, encoding)
    arrays = {name: torch.tensor([array]) for name, array in encoding.items() if name != "offset_mapping"}
    return arrays, RecordedText(inputs, tokens.texts, tokens.spans)


def _run(module: nn.Module, inputs: Any) -> None:
    """One forward pass, without what only the output needs."""
    from regard.nn import Transformer

    if isinstance(module, Transformer) and isinstance(inputs, Tensor):
        module.hidden(inputs)  # no logits
        return
    known = inspect.signature(module.forward).parameters
    options: dict[str, Any] = {}
    if hasattr(module, "set_attn_implementation"):
        given = set(inputs) if isinstance(inputs, Mapping) else set()
        if "use_cache" in known and not given & {"use_cache", "past_key_values"}:
            options["use_cache"] = False
        if "logits_to_keep" in known and not given & {"logits_to_keep", "labels"}:
            options["logits_to_keep"] = 1
    if isinstance(inputs, Tensor):
        module(inputs, **options)
    elif isinstance(inputs, Mapping):
        module(**inputs, **options)
    else:
        module(*inputs, **options)


class _Recorder(Interceptor):
    """Writes each layer as it is called."""

    def __init__(
        self,
        writer: RecordingWriter,
        model: nn.Module,
        layers: str | int | Sequence[str | int] | None,
        projections: ProjectionHooks | None,
    ) -> None:
        super().__init__(layers)
        self.writer, self.model, self.projections = writer, model, projections

    def handle(self, call: InterceptedCall) -> Tensor:
        inputs = None if self.projections is None else self.projections.take(call.layer, call.q, call.k, call.v)
        return self.writer.write_layer(call, self._expected(call.layer), inputs)

    def _expected(self, name: str) -> int:
        """How many layers there will be: the selected modules of the class of this one."""
        layer_class = type(self.model.get_submodule(name))
        alike = [other for other, module in self.model.named_modules() if type(module) is layer_class]
        return sum(self.includes(other, number) for number, other in enumerate(alike))


def _checked_path(to: str | Path) -> Path:
    path = Path(to)
    if not path.parent.is_dir() or path.is_dir():
        raise OptionError(
            "record(to=…)",
            str(path),
            "the path of a file in a folder that is there",
            "Make the folder, or name a file in it.",
        )
    return path


def _checked_dtype(dtype: torch.dtype | None) -> torch.dtype | None:
    if dtype is not None and dtype not in DTYPES.values():
        raise OptionError(
            "record(dtype=…)",
            str(dtype),
            f"{', '.join(f'torch.{n}' for n in DTYPES)} or None",
            "None is what the model computes in.",
        )
    return dtype


def _name(module: nn.Module) -> str:
    config = getattr(module, "config", None)
    return getattr(config, "name_or_path", "") or type(module).__name__
