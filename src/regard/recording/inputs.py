"""What a layer read, where its projections are known: the hidden states, and the maps to q, k, v and back.

Known are `regard.nn.MultiHeadAttention` and modules whose children have the names of `regard.convert`. What
is kept is what each projection itself was given, so that q = x · W + b holds but for what the layer does to
q and k afterwards: which is said, `between`.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from regard import convert
from regard.convert import Layout, Part
from regard.errors import RegardError
from regard.nn import MultiHeadAttention
from regard.shapes import Keys, Queries, Values

READING = "query", "key", "value"
"""The projections that read hidden states; `output` reads what the heads gave."""

NORM, POSITION, OTHER = "norm", "position", "another step"
"""What may lie between a projection and attention: a norm of each head, a turn by position, or neither."""

OURS = Layout(
    "regard",
    tuple(
        Part(f"{name}.{what}", (f"{name}.{what}",), needed=what == "weight")
        for name in convert.PROJECTIONS
        for what in ("weight", "bias")
    ),
)


class Projection(NamedTuple):
    """One of a layer's maps into attention, and what it read."""

    x: Float[Tensor, "b n inputs"]
    weight: Float[Tensor, "outputs inputs"]
    """A row for each component of each head: x · weightᵀ + bias."""
    bias: Float[Tensor, " outputs"] | None
    between: tuple[str, ...]
    """What the layer does to the result before attention: of "norm", "position" and "another step"."""


class Output(NamedTuple):
    """The map from the heads' outputs, side by side, back to hidden states."""

    weight: Float[Tensor, "size outputs"]
    bias: Float[Tensor, " size"] | None


@dataclass(frozen=True, eq=False)
class Inputs:
    """What a recorded layer read, and its maps."""

    query: Projection
    key: Projection
    value: Projection
    output: Output


class Projections:
    """Listens to the projections of a model, and has what they read when their layer attends."""

    def __init__(self, model: nn.Module) -> None:
        state = model.state_dict()
        layouts = {layout.name: layout for layout in convert.LAYOUTS}
        found = {prefix: layouts[name] for prefix, name in convert.find(state).items()}
        found |= {
            f"{name}." if name else "": OURS
            for name, module in model.named_modules()
            if isinstance(module, MultiHeadAttention)
        }
        self._known = {
            prefix: (_sources(layout), self._part(state, prefix, layout)) for prefix, layout in found.items()
        }
        self._model = model
        self._at: str | None = None
        self._read: dict[str, Tensor] = {}

    @contextmanager
    def on(self) -> Iterator[None]:
        """Listen in this context."""
        hooks: list[Any] = []
        try:
            for prefix, (sources, _) in self._known.items():
                for name in dict.fromkeys(sources.values()):
                    hear = functools.partial(self._hear, prefix, name)
                    try:
                        module = self._model.get_submodule(prefix + name)
                    except AttributeError:  # a parameter of the layer itself: no module reads x
                        continue
                    hooks.append(module.register_forward_pre_hook(hear))
            yield
        finally:
            for hook in hooks:
                hook.remove()
            self._read.clear()

    def take(self, name: str, q: Queries, k: Keys, v: Values) -> Inputs | None:
        """What the layer of a call read; None where that is not known.

        `name` is the module that attends.
        """
        under = [prefix for prefix in self._known if f"{name}.".startswith(prefix)]
        prefix = max(under, key=len, default=None)
        read, at = self._read, self._at
        self._read, self._at = {}, None
        if prefix is None or at != prefix:
            return None
        sources, state = self._known[prefix]
        xs = [read.get(sources[part]) for part in READING]
        ours = _ours(state, q.shape[1], k.shape[1])
        if ours is None or any(x is None for x in xs):
            return None
        words = self._between(prefix)
        made: list[Projection] = []
        for part, x, heads in zip(READING, xs, (q, k, v), strict=True):
            weight, bias = ours[f"{part}.weight"], ours.get(f"{part}.bias")
            b, h, n, size = heads.shape
            assert x is not None, "looked at above"
            if x.shape != (b, n, weight.shape[1]) or len(weight) != h * size:
                return None
            last = nn.functional.linear(x[0, -1], weight, bias)
            same = _same(last, heads[0, :, -1].flatten())
            told = () if same else (words if part != "value" else ()) or (OTHER,)
            made.append(Projection(x, weight, bias, told))
        output = Output(ours["output.weight"], ours.get("output.bias"))
        if output.weight.shape[1] != q.shape[1] * v.shape[3]:
            return None
        return Inputs(made[0], made[1], made[2], output)

    def _hear(self, prefix: str, name: str, module: nn.Module, arguments: tuple[Any, ...]) -> None:
        del module
        if self._at != prefix:  # what another layer read, which did not attend, is let go
            self._at, self._read = prefix, {}
        if arguments and isinstance(arguments[0], Tensor):
            self._read[name] = arguments[0]

    @staticmethod
    def _part(state: dict[str, Tensor], prefix: str, layout: Layout) -> tuple[Layout, dict[str, Tensor]]:
        """The layer's projections alone, without its norms and what else lies there."""
        parts = tuple(part for part in layout.parts if _projects(part))
        found = {part.name: state[prefix + part.name] for part in parts if prefix + part.name in state}
        return Layout(layout.name, parts), found

    def _between(self, prefix: str) -> tuple[str, ...]:
        """What the layer does to queries and keys after their projections, in its order."""
        module = self._model.get_submodule(prefix.removesuffix("."))
        if isinstance(module, MultiHeadAttention):
            norm = not isinstance(module.query_norm, nn.Identity)
            turned = module.position is not None
        else:
            norm = any(name.endswith(("q_norm", "query_norm")) for name, _ in module.named_modules())
            turned = "position_embeddings" in inspect.signature(module.forward).parameters
        return (NORM,) * norm + (POSITION,) * turned


def about_of(inputs: Inputs, hold: Callable[[Tensor], str]) -> dict[str, Any]:
    """Inputs as JSON; `hold` keeps a tensor and returns its name."""
    kept: dict[int, str] = {}

    def name_of(tensor: Tensor | None) -> str | None:
        if tensor is None:
            return None
        if id(tensor) not in kept:
            kept[id(tensor)] = hold(tensor)
        return kept[id(tensor)]

    made: dict[str, Any] = {
        part: {
            "x": name_of(one.x),
            "weight": name_of(one.weight),
            "bias": name_of(one.bias),
            "between": list(one.between),
        }
        for part in READING
        for one in [getattr(inputs, part)]
    }
    out = inputs.output
    return made | {"output": {"weight": name_of(out.weight), "bias": name_of(out.bias)}}


def numbers_of(inputs: Inputs) -> int:
    """How many numbers are kept at most."""
    parts = [inputs.query, inputs.key, inputs.value]
    tensors = {id(one.x): one.x for one in parts}
    tensors |= {id(t): t for one in (*parts, inputs.output) for t in (one.weight, one.bias) if t is not None}
    return sum(t.numel() for t in tensors.values())


def inputs_of(
    about: Any, tensor: Callable[[str], Tensor], q: torch.Size, k: torch.Size, v: torch.Size | None
) -> Inputs:
    """Inputs from what a file says of them; `q`, `k` and `v` are the shapes of the layer's heads.

    Raises:
        ValueError: they do not fit together.
    """
    made: list[Projection] = []
    for part, shape in zip(READING, (q, k, v), strict=True):
        told = about[part]
        x, weight, bias = (_kept(told[name], tensor) for name in ("x", "weight", "bias"))
        between = told["between"]
        known = {*between} <= {NORM, POSITION, OTHER}
        if x is None or weight is None or weight.ndim != 2 or not known:
            raise ValueError(f"what {part} is made of")
        n = (q if part == "query" else k)[2]
        rows = (shape or (0, k[1], 0, len(weight) // k[1]))[1::2]
        fits = x.shape == (q[0], n, weight.shape[1])
        if not fits or len(weight) != rows[0] * rows[1] or not _alike(bias, weight):
            raise ValueError(f"the shapes of what {part} is made of")
        made.append(Projection(x, weight, bias, tuple(between)))
    out = about["output"]
    weight, bias = (_kept(out[name], tensor) for name in ("weight", "bias"))
    if weight is None or weight.ndim != 2 or not _alike(bias, weight):
        raise ValueError("the map of the output")
    if weight.shape[1] * k[1] != len(made[2].weight) * q[1]:
        raise ValueError("the shape of the map of the output")
    return Inputs(made[0], made[1], made[2], Output(weight, bias))


def _kept(name: Any, tensor: Callable[[str], Tensor]) -> Tensor | None:
    if name is None:
        return None
    found = tensor(name)
    if not found.is_floating_point():
        raise ValueError(f"{name} holds {found.dtype}")
    return found


def _alike(bias: Tensor | None, weight: Tensor) -> bool:
    return bias is None or bias.shape == weight.shape[:1]


def _same(made: Tensor, given: Tensor) -> bool:
    """Whether numbers are equal but for rounding."""
    near = 64 * torch.finfo(given.dtype).eps * float(given.abs().amax().clamp(min=1e-6))
    return bool((made.float() - given.float()).abs().amax() <= near)


def _projects(part: Part) -> bool:
    return all(name.split(".")[0] in convert.PROJECTIONS for name in part.holds)


def _sources(layout: Layout) -> dict[str, str]:
    """The module that makes each of q, k and v, by its name in a layout."""
    return {
        held.removesuffix(".weight"): part.name.removesuffix(".weight")
        for part in layout.parts
        for held in part.holds
        if held in {f"{name}.weight" for name in READING}
    }


def _ours(kept: tuple[Layout, dict[str, Tensor]], heads: int, shared: int) -> dict[str, Tensor] | None:
    """The projections' tensors by our names; None where they do not fit this call's heads."""
    layout, state = kept
    try:
        return convert.read(state, layout, heads=heads, key_value_heads=shared)
    except RegardError:
        return None
