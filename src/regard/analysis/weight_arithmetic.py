"""The lesson's arithmetic for one weight of a recording, in float64, from the numbers that were recorded."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any, TypedDict

import torch
from torch import Tensor

from regard.analysis.layers import Layer
from regard.analysis.worked_example import HEADS, MEANING, How, Lesson, Maps, Number, WorkedHead
from regard.errors import OptionError
from regard.recording import Projection
from regard.shapes import Box
from regard.spec.masks import Everything
from regard.spec.scores import Dot

SHOWN, NEIGHBOURS = 64, 8
"""Keys of the row that are included, and how many of them are neighbours on either side."""

NonFinite = Annotated[float, "not finite for masked keys"]
"""A number that JSON has as null where it is not finite."""


class Softcap(TypedDict):
    """The soft-cap c, and c · tanh(score / c)."""

    cap: float
    score: float


class RowExcerpt(TypedDict):
    """Some keys of a row, with their scores and weights."""

    keys: list[int]
    scores: list[NonFinite]
    weights: list[float]


class ValueSum(TypedDict):
    """A head's output at a query: the weighted sum of the values `vs` of some keys, and of all others (`rest`)."""

    v: list[float]
    out: list[float]
    keys: list[int]
    vs: list[list[float]]
    rest: list[float]


class InputProduct(TypedDict):
    """One component of q, k or v as x · w + bias, of what the layer read; `between` are modules that follow."""

    component: int
    x: list[float]
    w: list[float]
    sum: float
    bias: float | None
    projected: float
    recorded: float | None
    between: list[str]


class InputProducts(TypedDict):
    """One component of q, of k and of v."""

    component: int
    q: InputProduct
    k: InputProduct
    v: InputProduct


class _DotProduct(TypedDict):
    q: list[float]
    k: list[float]
    products: list[float]
    dot: float | None
    scale: float | None
    scaled: float | None
    softcap: Softcap | None


class _SoftmaxSteps(TypedDict):
    max: float | None
    exp: float
    sum: float
    sink: float | None


class WeightDerivation(_DotProduct, _SoftmaxSteps):
    """How one weight is computed; `dot` to `scaled` are None for scores that are no dot product."""

    allowed: bool
    bias: NonFinite
    score: NonFinite
    weight: float
    lse: NonFinite
    row: RowExcerpt
    values: ValueSum | None
    inputs: InputProducts | None


class ProjectedComponent(TypedDict):
    """One component of a layer's output: Σ over heads of o · w, plus the bias."""

    component: int
    size: int
    w: list[list[float]]
    parts: list[float]
    bias: float | None
    out: float


class HeadOutputs(TypedDict):
    """The output of every head at a query, and one component of the layer's output; None where not recorded."""

    heads: list[list[float]] | None
    projected: ProjectedComponent | None


class ExampleNumber(TypedDict):
    """A number of the worked example, and the indices of the numbers of which it was computed."""

    value: NonFinite
    name: str
    role: str
    how: str
    of: list[int]


class ExampleHead(TypedDict):
    """One head of the worked example, as indices into its numbers."""

    w_q: list[list[int]]
    w_k: list[list[int]]
    w_v: list[list[int]]
    q: list[list[int]]
    k: list[list[int]]
    v: list[list[int]]
    scores: list[list[int]]
    divisor: int
    scaled: list[list[int]]
    masked: list[list[int]]
    maxima: list[int]
    shifted: list[list[int]]
    exps: list[list[int]]
    sums: list[int]
    weights: list[list[int]]
    out: list[list[int]]


class WorkedExample(TypedDict):
    """The worked example of `regard learn`: a table of numbers, and matrices of indices into it."""

    words: list[str]
    labels: list[str]
    chosen: bool
    numbers: list[ExampleNumber]
    x: list[list[int]]
    heads: list[ExampleHead]
    w_o: list[list[int]]
    concat: list[list[int]]
    out: list[list[int]]


def weight_derivation(layer: Layer, head: int, query: int, key: int, component: int | None = None) -> WeightDerivation:
    """How one weight is computed: products, scale, soft-cap, bias, maximum, exp, sum, and its row.

    Weights are those of the map; the steps to them are computed from q and k as in the worked example.
    `component` is the one of q, k and v for which `inputs` are given; by default that of the largest product.
    """
    problem = layer.weights.problem
    h = range(head, head + 1)
    g = head // (problem.sizes.h // problem.sizes.g)
    q = problem.q[:1, head : head + 1, query : query + 1].double()
    k = problem.k[:1, g : g + 1].double()
    box = Box(range(1), h, range(query, query + 1), range(layer.keys))
    allowed = problem.mask.block(box, torch.device("cpu")).expand(1, 1, 1, layer.keys)[0, 0, 0]
    score = problem.score.cast(torch.float64).heads(h)
    keys = torch.arange(layer.keys)
    unbiased = score.at(q, k, range(query, query + 1), keys)[0, 0, 0]
    bias = problem.bias.cast(torch.float64).block(box).expand(1, 1, 1, layer.keys)[0, 0, 0]
    scores = torch.where(allowed, unbiased + bias, -torch.inf)
    sinks = getattr(problem.normalizer, "sink", None)
    weights = layer.box(head, range(query, query + 1), range(layer.keys))[0]
    product = _dot_product(score, q[0, 0, 0], k[0, 0, key])
    softmax = _softmax(scores, key, None if sinks is None else float(sinks[head]))
    row = _row_excerpt(scores, weights, key)
    return {
        "allowed": bool(allowed[key]),
        **product,
        "bias": float(bias[key]),
        "score": float(scores[key]),
        **softmax,
        "weight": float(weights[key]),
        "lse": float(layer.recorded.lse[0, head, query]),
        "row": row,
        "values": _value_sum(layer, g, key, weights, row["keys"]),
        "inputs": _input_products(layer, head, g, query, key, component, product["products"]),
    }


def _dot_product(score: Any, q: Tensor, k: Tensor) -> _DotProduct:
    """q · k, product by product, and the score before the bias."""
    if score.components(len(q)) is None:
        return {
            "q": q.tolist(),
            "k": k.tolist(),
            "products": [],
            "dot": None,
            "scale": None,
            "scaled": None,
            "softcap": None,
        }
    left, right, dot = (
        score.as_dot(q[None, None, None], k[None, None, None])
        if not isinstance(score, Dot)
        else (q[None, None, None], k[None, None, None], score.scaled(len(q)))
    )
    assert dot.scale is not None, "as_dot fills it in"
    left, right = left.double()[0, 0, 0].tolist(), right.double()[0, 0, 0].tolist()
    pairs = list(zip(left, right, strict=True))
    total = worked(How.PRODUCTS, *(x for pair in pairs for x in pair))
    scaled = total * dot.scale
    softcap: Softcap | None = None
    if dot.softcap is not None:
        softcap = {"cap": dot.softcap, "score": dot.softcap * math.tanh(scaled / dot.softcap)}
    return {
        "q": left,
        "k": right,
        "products": [worked(How.PRODUCTS, *pair) for pair in pairs],
        "dot": total,
        "scale": dot.scale,
        "scaled": scaled,
        "softcap": softcap,
    }


def _softmax(scores: Tensor, key: int, sink: float | None) -> _SoftmaxSteps:
    """The softmax, step by step."""
    visible = scores[scores > -torch.inf].tolist()
    row = visible if sink is None else [*visible, sink]
    if not visible:
        return {"max": None, "exp": 0.0, "sum": 0.0, "sink": sink}
    most = worked(How.MAXIMUM, *row)
    exps = [worked(How.EXP, worked(How.SUBTRACT, score, most)) for score in row]
    shifted = worked(How.SUBTRACT, float(scores[key]), most)
    return {
        "max": most,
        "exp": worked(How.EXP, shifted),
        "sum": worked(How.SUM, *exps),
        "sink": None if sink is None else exps[-1],
    }


def _row_excerpt(scores: Tensor, weights: Tensor, key: int) -> RowExcerpt:
    near = range(max(key - NEIGHBOURS, 0), min(key + NEIGHBOURS + 1, len(weights)))
    strongest = weights.topk(min(SHOWN, len(weights))).indices.tolist()
    # Neighbours first, then the strongest, each once, up to `SHOWN`.
    shown = sorted(list(dict.fromkeys([*near, *strongest]))[:SHOWN])
    return {"keys": shown, "scores": scores[shown].tolist(), "weights": weights[shown].double().tolist()}


def _value_sum(layer: Layer, group: int, key: int, weights: Tensor, shown: list[int]) -> ValueSum | None:
    """The output of the row: the values of the keys of the excerpt, and the sum over all others."""
    recorded = layer.recorded.v
    if recorded is None:
        return None
    v = recorded[0, group].double()
    out, vs = weights.double() @ v, v[shown]
    rest = out - weights[shown].double() @ vs
    return {"v": v[key].tolist(), "out": out.tolist(), "keys": shown, "vs": vs.tolist(), "rest": rest.tolist()}


def _input_products(
    layer: Layer, head: int, group: int, query: int, key: int, component: int | None, products: list[float]
) -> InputProducts | None:
    """One component of q, of k and of v, each as a sum of products of what the layer read."""
    recorded, inputs = layer.recorded, layer.recorded.inputs
    if inputs is None:
        return None
    size = recorded.q.shape[3]
    if component is None:
        sizes = [abs(product) for product in products[:size]]
        component = sizes.index(max(sizes)) if sizes else 0

    def part(projection: Projection, head: int, heads: int, token: int, vectors: Tensor | None) -> InputProduct:
        row_in_head = min(component, len(projection.weight) // heads - 1)
        row = head * (len(projection.weight) // heads) + row_in_head
        x, w = projection.x[0, token].double().tolist(), projection.weight[row].double().tolist()
        total = worked(How.PRODUCTS, *(factor for pair in zip(x, w, strict=True) for factor in pair))
        bias = None if projection.bias is None else float(projection.bias[row])
        return {
            "component": row_in_head,
            "x": x,
            "w": w,
            "sum": total,
            "bias": bias,
            "projected": total if bias is None else worked(How.SUM, total, bias),
            "recorded": None if vectors is None else float(vectors[0, head, token, row_in_head]),
            "between": list(projection.between),
        }

    groups = recorded.k.shape[1]
    return {
        "component": component,
        "q": part(inputs.query, head, recorded.heads, query, recorded.q),
        "k": part(inputs.key, group, groups, key, recorded.k),
        "v": part(inputs.value, group, groups, key, recorded.v),
    }


def head_outputs(layer: Layer, query: int, component: int | None) -> HeadOutputs:
    """The output of every head at a query, and a component of the layer's output as a sum over heads.

    Raises:
        OptionError: a component that the output does not have.
    """
    recorded = layer.recorded
    v = recorded.v
    if v is None:
        return {"heads": None, "projected": None}
    repeats = recorded.heads // v.shape[1]
    weights = layer.row(query).double()
    out = torch.stack([weights[h] @ v[0, h // repeats].double() for h in range(recorded.heads)])
    if recorded.inputs is None:
        return {"heads": out.tolist(), "projected": None}
    projection = recorded.inputs.output
    size = len(projection.weight)
    if component is None:
        projected = projection.weight.double() @ out.flatten()
        biased = projected if projection.bias is None else projected + projection.bias.double()
        component = int(biased.abs().argmax())
    if component >= size:
        raise OptionError(
            "component", component, f"a whole number from 0 to {size - 1}", "The layer's output has no more."
        )
    w = projection.weight[component].double().reshape(out.shape)
    parts = [
        worked(How.PRODUCTS, *(x for pair in zip(o, row, strict=True) for x in pair))
        for o, row in zip(out.tolist(), w.tolist(), strict=True)
    ]
    bias = None if projection.bias is None else float(projection.bias[component])
    return {
        "heads": out.tolist(),
        "projected": {
            "component": component,
            "size": size,
            "w": w.tolist(),
            "parts": parts,
            "bias": bias,
            "out": worked(How.SUM, *parts, *(() if bias is None else (bias,))),
        },
    }


def worked_example_json(text: str, tied: bool, causal: bool, divisor: float | None) -> WorkedExample:
    """The worked example of `regard learn` as a table of numbers, each with the indices of its operands."""
    heads: tuple[Maps, ...] = tuple(maps.tied() for maps in HEADS) if tied else HEADS
    lesson = Lesson.of(text, heads=heads, mask=None if causal else Everything(), divisor=divisor)
    indices: dict[int, int] = {}
    numbers: list[ExampleNumber] = []

    def index(number: Number) -> int:
        if id(number) not in indices:
            operands = [index(operand) for operand in number.operands]
            indices[id(number)] = len(numbers)
            numbers.append(
                {
                    "value": number.value,
                    "name": number.name,
                    "role": number.role.value,
                    "how": number.how.value,
                    "of": operands,
                }
            )
        return indices[id(number)]

    def matrix(rows: Sequence[Sequence[Number]]) -> list[list[int]]:
        return [[index(number) for number in row] for row in rows]

    def as_indices(head: WorkedHead) -> ExampleHead:
        return {
            "w_q": matrix(head.w_q),
            "w_k": matrix(head.w_k),
            "w_v": matrix(head.w_v),
            "q": matrix(head.q),
            "k": matrix(head.k),
            "v": matrix(head.v),
            "scores": matrix(head.scores),
            "scaled": matrix(head.scaled),
            "masked": matrix(head.masked),
            "shifted": matrix(head.shifted),
            "exps": matrix(head.exps),
            "weights": matrix(head.weights),
            "out": matrix(head.out),
            "maxima": [index(number) for number in head.maxima],
            "sums": [index(number) for number in head.sums],
            "divisor": index(head.divisor),
        }

    return {
        "words": list(lesson.words),
        "labels": list(lesson.labels),
        "chosen": lesson.chosen,
        "x": matrix(lesson.x),
        "heads": [as_indices(head) for head in lesson.heads],
        "w_o": matrix(lesson.w_o),
        "concat": matrix(lesson.concat),
        "out": matrix(lesson.out),
        "numbers": numbers,
    }


def worked(how: How, *of: float) -> float:
    """A step of the lesson on plain numbers.

    >>> worked(How.PRODUCTS, 1.0, 2.0, 3.0, 4.0), worked(How.SUBTRACT, 1.0, 3.0)
    (14.0, -2.0)
    """
    return MEANING[how](of)
