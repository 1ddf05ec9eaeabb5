"""The lesson's arithmetic for one weight of a recording, in float64, from the numbers that were recorded."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from regard.analysis.layers import Layer
from regard.analysis.worked_example import HEADS, MEANING, How, Lesson, Maps, Number
from regard.errors import OptionError
from regard.recording import Projection
from regard.shapes import Box
from regard.spec.masks import Everything
from regard.spec.scores import Dot

SHOWN, BESIDE = 64, 8
"""Keys of the row that are told, and how many of them are neighbours on either side."""


def weight_derivation(layer: Layer, head: int, query: int, key: int, component: int | None = None) -> dict[str, Any]:
    """How one weight comes about: products, scale, soft-cap, bias, maximum, exp, sum, and its row.

    Weights are those of the map; what leads to them is worked with the lesson's own steps from q and k.
    `component` is that of q, k and v whose making from x is told; by default that of the largest product.
    """
    problem = layer.weights.problem
    h = range(head, head + 1)
    g = head // (problem.sizes.h // problem.sizes.g)
    q = problem.q[:1, head : head + 1, query : query + 1].double()
    k = problem.k[:1, g : g + 1].double()
    box = Box(range(1), h, range(query, query + 1), range(layer.keys))
    allowed = problem.mask.block(box, torch.device("cpu")).expand(1, 1, 1, layer.keys)[0, 0, 0]
    score = problem.score.cast(torch.float64).heads(h)
    at = torch.arange(layer.keys)
    raw = score.at(q, k, range(query, query + 1), at)[0, 0, 0]
    bias = problem.bias.cast(torch.float64).block(box).expand(1, 1, 1, layer.keys)[0, 0, 0]
    scores = torch.where(allowed, raw + bias, -torch.inf)
    sink = getattr(problem.normalizer, "sink", None)
    extra = None if sink is None else float(sink[head])
    weights = layer.box(head, range(query, query + 1), range(layer.keys))[0]
    told: dict[str, Any] = {"allowed": bool(allowed[key])}
    told |= _dot(score, q[0, 0, 0], k[0, 0, key])
    told |= {"bias": float(bias[key]), "score": float(scores[key])}
    told |= _normal(scores, key, extra)
    told["weight"] = float(weights[key])
    told["lse"] = float(layer.recorded.lse[0, head, query])
    told["row"] = _row(scores, weights, key)
    told["values"] = _values(layer, g, key, weights, told["row"]["keys"])
    told["inputs"] = _inputs(layer, head, g, query, key, component, told["products"])
    return told


def _dot(score: Any, q: Tensor, k: Tensor) -> dict[str, Any]:
    """q · k, product by product, and what is made of it before the bias."""
    vectors = {"q": q.tolist(), "k": k.tolist()}
    if score.components(len(q)) is None:
        nothing = {"products": [], "dot": None, "scale": None, "scaled": None, "softcap": None}
        return vectors | nothing
    left, right, dot = (
        score.as_dot(q[None, None, None], k[None, None, None])
        if not isinstance(score, Dot)
        else (q[None, None, None], k[None, None, None], score.scaled(len(q)))
    )
    assert dot.scale is not None, "as_dot fills it in"
    left, right = left.double()[0, 0, 0].tolist(), right.double()[0, 0, 0].tolist()
    pairs = list(zip(left, right, strict=True))
    whole = worked(How.PRODUCTS, *(x for pair in pairs for x in pair))
    scaled = whole * dot.scale
    cap = None
    if dot.softcap is not None:
        cap = {"cap": dot.softcap, "score": dot.softcap * math.tanh(scaled / dot.softcap)}
    return {
        "q": left,
        "k": right,
        "products": [worked(How.PRODUCTS, *pair) for pair in pairs],
        "dot": whole,
        "scale": dot.scale,
        "scaled": scaled,
        "softcap": cap,
    }


def _normal(scores: Tensor, key: int, sink: float | None) -> dict[str, Any]:
    """The softmax, step by step."""
    seen = scores[scores > -torch.inf].tolist()
    row = seen if sink is None else [*seen, sink]
    if not seen:
        return {"max": None, "exp": 0.0, "sum": 0.0, "sink": sink}
    most = worked(How.MAXIMUM, *row)
    exps = [worked(How.EXP, worked(How.SUBTRACT, one, most)) for one in row]
    own = worked(How.SUBTRACT, float(scores[key]), most)
    return {
        "max": most,
        "exp": worked(How.EXP, own),
        "sum": worked(How.SUM, *exps),
        "sink": None if sink is None else exps[-1],
    }


def _row(scores: Tensor, weights: Tensor, key: int) -> dict[str, Any]:
    near = range(max(key - BESIDE, 0), min(key + BESIDE + 1, len(weights)))
    strongest = weights.topk(min(SHOWN, len(weights))).indices.tolist()
    # In the order in which they matter, each once, as many as are told.
    shown = sorted(list(dict.fromkeys([*near, *strongest]))[:SHOWN])
    return {"keys": shown, "scores": scores[shown].tolist(), "weights": weights[shown].double().tolist()}


def _values(layer: Layer, group: int, key: int, weights: Tensor, shown: list[int]) -> dict[str, Any] | None:
    """The output of the row: what each key that is told gives to it, and all others together."""
    v = layer.recorded.v
    if v is None:
        return None
    own = v[0, group].double()
    out, vs = weights.double() @ own, own[shown]
    rest = out - weights[shown].double() @ vs
    return {"v": own[key].tolist(), "out": out.tolist(), "keys": shown, "vs": vs.tolist(), "rest": rest.tolist()}


def _inputs(
    layer: Layer, head: int, group: int, query: int, key: int, component: int | None, products: list[float]
) -> dict[str, Any] | None:
    """One component of q, of k and of v, each as a sum of products of what the layer read."""
    read, recorded = layer.recorded.inputs, layer.recorded
    if read is None:
        return None
    size = recorded.q.shape[3]
    if component is None:
        sizes = [abs(one) for one in products[:size]]
        component = sizes.index(max(sizes)) if sizes else 0
    v = recorded.v

    def part(by: Projection, which: int, heads: int, at: int, vectors: Tensor | None) -> dict[str, Any]:
        own = min(component, len(by.weight) // heads - 1)
        row = which * (len(by.weight) // heads) + own
        x, w = by.x[0, at].double().tolist(), by.weight[row].double().tolist()
        total = worked(How.PRODUCTS, *(one for pair in zip(x, w, strict=True) for one in pair))
        bias = None if by.bias is None else float(by.bias[row])
        return {
            "component": own,
            "x": x,
            "w": w,
            "sum": total,
            "bias": bias,
            "projected": total if bias is None else worked(How.SUM, total, bias),
            "recorded": None if vectors is None else float(vectors[0, which, at, own]),
            "between": list(by.between),
        }

    groups = recorded.k.shape[1]
    return {
        "component": component,
        "q": part(read.query, head, recorded.heads, query, recorded.q),
        "k": part(read.key, group, groups, key, recorded.k),
        "v": part(read.value, group, groups, key, v),
    }


def head_outputs(layer: Layer, query: int, component: int | None) -> dict[str, Any]:
    """What every head gives to a query, and a component of the layer's output as a sum over heads.

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
    told: dict[str, Any] = {"heads": out.tolist(), "projected": None}
    if recorded.inputs is None:
        return told
    by = recorded.inputs.output
    size = len(by.weight)
    if component is None:
        whole = by.weight.double() @ out.flatten()
        component = int((whole if by.bias is None else whole + by.bias.double()).abs().argmax())
    if component >= size:
        raise OptionError(
            "component", component, f"a whole number from 0 to {size - 1}", "The layer's output has no more."
        )
    w = by.weight[component].double().reshape(out.shape)
    parts = [
        worked(How.PRODUCTS, *(x for pair in zip(o, row, strict=True) for x in pair))
        for o, row in zip(out.tolist(), w.tolist(), strict=True)
    ]
    bias = None if by.bias is None else float(by.bias[component])
    return told | {
        "projected": {
            "component": component,
            "size": size,
            "w": w.tolist(),
            "parts": parts,
            "bias": bias,
            "out": worked(How.SUM, *parts, *(() if bias is None else (bias,))),
        }
    }


def worked_example_json(text: str, tied: bool, causal: bool, divisor: float | None) -> dict[str, Any]:
    """The worked example of `regard learn`: one table of numbers, each with those it was made of."""
    heads: tuple[Maps, ...] = tuple(maps.tied() for maps in HEADS) if tied else HEADS
    lesson = Lesson.of(text, heads=heads, mask=None if causal else Everything(), divisor=divisor)
    places: dict[int, int] = {}
    table: list[dict[str, Any]] = []

    def place(one: Number) -> int:
        if id(one) not in places:
            of = [place(operand) for operand in one.operands]
            places[id(one)] = len(table)
            table.append({"value": one.value, "name": one.name, "role": one.role.value, "how": one.how.value, "of": of})
        return places[id(one)]

    def matrix(rows: Any) -> list[list[int]]:
        return [[place(one) for one in row] for row in rows]

    return {
        "words": list(lesson.words),
        "labels": list(lesson.labels),
        "chosen": lesson.chosen,
        "x": matrix(lesson.x),
        "heads": [
            {
                **{name: matrix(getattr(head, name)) for name in _MATRICES},
                **{name: [place(one) for one in getattr(head, name)] for name in ("maxima", "sums")},
                "divisor": place(head.divisor),
            }
            for head in lesson.heads
        ],
        "w_o": matrix(lesson.w_o),
        "concat": matrix(lesson.concat),
        "out": matrix(lesson.out),
        "numbers": table,
    }


_MATRICES = ("w_q", "w_k", "w_v", "q", "k", "v", "scores", "scaled", "masked", "shifted", "exps", "weights", "out")


def worked(how: How, *of: float) -> float:
    """A step of the lesson on plain numbers.

    >>> worked(How.PRODUCTS, 1.0, 2.0, 3.0, 4.0), worked(How.SUBTRACT, 1.0, 3.0)
    (14.0, -2.0)
    """
    return MEANING[how](of)
