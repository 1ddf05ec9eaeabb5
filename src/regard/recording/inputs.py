"""The inputs of a layer whose projections are known: the hidden states, and the maps to q, k, v and back.

Known are `regard.nn.MultiHeadAttention` and modules whose children have the names of `regard.convert`. What
is kept is the input of each projection itself, so that q = x · W + b but for what the layer does to
q and k afterwards, `between`.
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

INPUT_PROJECTIONS = "query", "key", "value"
"""The projections that read hidden states; `output` reads the heads' outputs."""

NORM, POSITION, OTHER = "norm", "position", "another step"
"""What may lie between a projection and attention: a norm of each head, a rotation by position, or neither."""

OURS = Layout(
    "regard",
    tuple(
        Part(f"{name}.{what}", (f"{name}.{what}",), needed=what == "weight")
        for name in convert.PROJECTIONS
        for what in ("weight", "bias")
    ),
)


class Projection(NamedTuple):
    """One of a layer's maps into attention, and its input."""

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
    """The inputs of a recorded layer, and its maps."""

    query: Projection
    key: Projection
    value: Projection
    output: Output


class ProjectionHooks:
    """Hooks on the projections of a model, which keep their inputs until their layer attends."""

    def __init__(self, model: nn.Module) -> None:
        state = model.state_dict()
        layouts = {layout.name: layout for layout in convert.LAYOUTS}
        layers = {prefix: layouts[name] for prefix, name in convert.find(state).items()}
        layers |= {
            f"{name}." if name else "": OURS
            for name, module in model.named_modules()
            if isinstance(module, MultiHeadAttention)
        }
        self._known = {
            prefix: (_sources(layout), self._part(state, prefix, layout)) for prefix, layout in layers.items()
        }
        self._model = model
        self._at: str | None = None
        self._read: dict[str, Tensor] = {}

    @contextmanager
    def on(self) -> Iterator[None]:
        """Have the hooks in this context."""
        hooks: list[Any] = []
        try:
            for prefix, (sources, _) in self._known.items():
                for name in dict.fromkeys(sources.values()):
                    hook = functools.partial(self._keep, prefix, name)
                    try:
                        module = self._model.get_submodule(prefix + name)
                    except AttributeError:  # a parameter of the layer itself: no module reads x
                        continue
                    hooks.append(module.register_forward_pre_hook(hook))
            yield
        finally:
            for hook in hooks:
                hook.remove()
            self._read.clear()

    def take(self, name: str, q: Queries, k: Keys, v: Values) -> Inputs | None:
        """The inputs of the layer of a call; None where they are not known.

        `name` is the module that attends.
        """
        under = [prefix for prefix in self._known if f"{name}.".startswith(prefix)]
        prefix = max(under, key=len, default=None)
        read, at = self._read, self._at
        self._read, self._at = {}, None
        if prefix is None or at != prefix:
            return None
        sources, state = self._known[prefix]
        xs = [read.get(sources[part]) for part in INPUT_PROJECTIONS]
        tensors = _projections(state, q.shape[1], k.shape[1])
        if tensors is None or any(x is None for x in xs):
            return None
        between = self._between(prefix)
        projections: list[Projection] = []
        for part, x, heads in zip(INPUT_PROJECTIONS, xs, (q, k, v), strict=True):
            weight, bias = tensors[f"{part}.weight"], tensors.get(f"{part}.bias")
            b, h, n, size = heads.shape
            assert x is not None, "checked above"
            if x.shape != (b, n, weight.shape[1]) or len(weight) != h * size:
                return None
            last = nn.functional.linear(x[0, -1], weight, bias)
            same = _same(last, heads[0, :, -1].flatten())
            steps = () if same else (between if part != "value" else ()) or (OTHER,)
            projections.append(Projection(x, weight, bias, steps))
        output = Output(tensors["output.weight"], tensors.get("output.bias"))
        if output.weight.shape[1] != q.shape[1] * v.shape[3]:
            return None
        return Inputs(projections[0], projections[1], projections[2], output)

    def _keep(self, prefix: str, name: str, module: nn.Module, arguments: tuple[Any, ...]) -> None:
        del module
        if self._at != prefix:  # the inputs of another layer, which did not attend, are dropped
            self._at, self._read = prefix, {}
        if arguments and isinstance(arguments[0], Tensor):
            self._read[name] = arguments[0]

    @staticmethod
    def _part(state: dict[str, Tensor], prefix: str, layout: Layout) -> tuple[Layout, dict[str, Tensor]]:
        """The layer's projections alone, without its norms and other parameters."""
        parts = tuple(part for part in layout.parts if _projects(part))
        tensors = {part.name: state[prefix + part.name] for part in parts if prefix + part.name in state}
        return Layout(layout.name, parts), tensors

    def _between(self, prefix: str) -> tuple[str, ...]:
        """What the layer does to queries and keys after their projections, in its order."""
        module = self._model.get_submodule(prefix.removesuffix("."))
        if isinstance(module, MultiHeadAttention):
            norm = not isinstance(module.query_norm, nn.Identity)
            rotated = module.position is not None
        else:
            norm = any(name.endswith(("q_norm", "query_norm")) for name, _ in module.named_modules())
            rotated = "position_embeddings" in inspect.signature(module.forward).parameters
        return (NORM,) * norm + (POSITION,) * rotated


def inputs_to_json(inputs: Inputs, put_tensor: Callable[[Tensor], str]) -> dict[str, Any]:
    """Inputs as JSON; `put_tensor` writes a tensor and returns its name."""
    names: dict[int, str] = {}

    def name_of(tensor: Tensor | None) -> str | None:
        if tensor is None:
            return None
        if id(tensor) not in names:
            names[id(tensor)] = put_tensor(tensor)
        return names[id(tensor)]

    form: dict[str, Any] = {}
    for part, projection in zip(INPUT_PROJECTIONS, (inputs.query, inputs.key, inputs.value), strict=True):
        form[part] = {
            "x": name_of(projection.x),
            "weight": name_of(projection.weight),
            "bias": name_of(projection.bias),
            "between": list(projection.between),
        }
    output = inputs.output
    return form | {"output": {"weight": name_of(output.weight), "bias": name_of(output.bias)}}


def numel(inputs: Inputs) -> int:
    """How many numbers are written at most."""
    parts = [inputs.query, inputs.key, inputs.value]
    tensors = {id(part.x): part.x for part in parts}
    tensors |= {id(t): t for part in (*parts, inputs.output) for t in (part.weight, part.bias) if t is not None}
    return sum(t.numel() for t in tensors.values())


def inputs_from_json(
    form: Any, tensor: Callable[[str], Tensor], q: torch.Size, k: torch.Size, v: torch.Size | None
) -> Inputs:
    """The inputs that `inputs_to_json` wrote; `q`, `k` and `v` are the shapes of the layer's heads.

    Raises:
        ValueError: they do not fit together.
    """
    projections: list[Projection] = []
    for part, shape in zip(INPUT_PROJECTIONS, (q, k, v), strict=True):
        x, weight, bias = (_tensor(form[part][name], tensor) for name in ("x", "weight", "bias"))
        between = form[part]["between"]
        known = {*between} <= {NORM, POSITION, OTHER}
        if x is None or weight is None or weight.ndim != 2 or not known:
            raise ValueError(f"the inputs of {part}")
        n = (q if part == "query" else k)[2]
        rows = (shape or (0, k[1], 0, len(weight) // k[1]))[1::2]
        fits = x.shape == (q[0], n, weight.shape[1])
        if not fits or len(weight) != rows[0] * rows[1] or not _alike(bias, weight):
            raise ValueError(f"the shapes of the inputs of {part}")
        projections.append(Projection(x, weight, bias, tuple(between)))
    weight, bias = (_tensor(form["output"][name], tensor) for name in ("weight", "bias"))
    if weight is None or weight.ndim != 2 or not _alike(bias, weight):
        raise ValueError("the map of the output")
    if weight.shape[1] * k[1] != len(projections[2].weight) * q[1]:
        raise ValueError("the shape of the map of the output")
    return Inputs(projections[0], projections[1], projections[2], Output(weight, bias))


def _tensor(name: Any, tensor: Callable[[str], Tensor]) -> Tensor | None:
    if name is None:
        return None
    result = tensor(name)
    if not result.is_floating_point():
        raise ValueError(f"{name} has dtype {result.dtype}")
    return result


def _alike(bias: Tensor | None, weight: Tensor) -> bool:
    return bias is None or bias.shape == weight.shape[:1]


def _same(computed: Tensor, given: Tensor) -> bool:
    """Whether numbers are equal but for rounding."""
    near = 64 * torch.finfo(given.dtype).eps * float(given.abs().amax().clamp(min=1e-6))
    return bool((computed.float() - given.float()).abs().amax() <= near)


def _projects(part: Part) -> bool:
    return all(name.split(".")[0] in convert.PROJECTIONS for name in part.holds)


def _sources(layout: Layout) -> dict[str, str]:
    """The module that computes each of q, k and v, by its name in a layout."""
    return {
        inner.removesuffix(".weight"): part.name.removesuffix(".weight")
        for part in layout.parts
        for inner in part.holds
        if inner in {f"{name}.weight" for name in INPUT_PROJECTIONS}
    }


def _projections(layer: tuple[Layout, dict[str, Tensor]], heads: int, key_value_heads: int) -> dict[str, Tensor] | None:
    """The projections' tensors by regard's names; None where they do not fit this call's heads."""
    layout, state = layer
    try:
        return convert.read(state, layout, heads=heads, key_value_heads=key_value_heads)
    except RegardError:
        return None
