"""How far a result may lie from float64: twice as far as the plain formula, plus one rounding."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

import plain
from cases import Call, Case, Draw, observers
from regard.spec.observers import Entropy, MeanDistance, Observer, Rows, Top

# In float64 the reference is no better than the rest, so its own rounding counts too.
ROUNDINGS = {torch.float64: 64}
EPS = torch.finfo(torch.float32).eps

Run = Callable[[Call, tuple[Observer[Any], ...]], tuple[Tensor, Mapping[Observer[Any], Any]]]


def by_backend(name: str) -> Run:
    def run(call: Call, asked: tuple[Observer[Any], ...]) -> tuple[Tensor, Mapping[Observer[Any], Any]]:
        seen = call.observe(*asked, backend=name)
        return seen.out, {observer: seen[observer] for observer in asked}

    return run


def by_plain(call: Call, asked: tuple[Observer[Any], ...]) -> tuple[Tensor, Mapping[Observer[Any], Any]]:
    return plain.run(call, *asked)


def results(
    case: Case, run: Run, dtype: torch.dtype | None = None, asked: tuple[Observer[Any], ...] | None = None
) -> dict[str, Tensor]:
    """Everything that a call answers, by name: output, statistics (all, or those asked for), gradients."""
    call = case.build(dtype).requiring_gradients()
    asked = observers(case.sizes) if asked is None else asked
    out, seen = run(call, asked)
    found: dict[str, Tensor] = {"out": out}
    for observer, result in seen.items():
        if isinstance(result, Top):
            found[f"{observer!r} keys"], found[f"{observer!r} weights"] = result
        else:
            found[repr(observer)] = result
    lonely, _ = run(call, ())
    losses = {"out": weighted(lonely, "out")}
    # The entropy of a weight near 0 has a gradient without bound: sparse weights are asked for the rest.
    sparse = case.normalizer in ("sparsemax", "entmax15")
    differentiable = {
        o: r
        for o, r in seen.items()
        if o.differentiable and r.requires_grad and not (sparse and isinstance(o, Entropy))
    }
    losses["all"] = weighted(out, "out")
    for observer, result in differentiable.items():
        # Distances are counted in lengths of the call: in tokens they would drown all other statistics.
        unit = max(case.sizes.k, 1) if isinstance(observer, MeanDistance) else 1
        losses["all"] = losses["all"] + weighted(result, repr(observer)) / unit
    leaves = call.leaves()
    for name, loss in losses.items():
        if not loss.requires_grad:
            continue
        grads = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
        for leaf, grad in zip(leaves, grads, strict=True):
            found[f"d {name} / d {leaf}"] = torch.zeros(()) if grad is None else grad
    return {name: tensor.detach() for name, tensor in found.items()}


def weighted(result: Tensor, name: str) -> Tensor:
    """A sum with weights that every dtype holds exactly; rows without a finite value stay out."""
    weights = Draw(name).integers(-8, 9, *result.shape).double() / 8
    return (torch.where(torch.isinf(result), 0, result).double() * weights).sum()


def hold(
    got: dict[str, Tensor], exact: dict[str, Tensor], usual: dict[str, Tensor], case: Case, granted: int = 0
) -> None:
    """Assert that every result keeps within the budget.

    `granted` are more roundings of float32, of the greatest gradient of the loss: where a gradient is of few
    numbers, the plain formula may hit it exactly, by luck.

    Distances are root mean squares: the greatest single error is a matter of luck, and may be twice as
    large again. The gradients of one loss share the relative error of the plain formula's worst.
    """
    assert got.keys() == exact.keys() == usual.keys()
    late: list[str] = []
    for group in _groups(got):
        wants = {name: _finite(exact[name]) for name in group}
        largest = max(_rms(want) for want in wants.values())
        for measure, factor in ((_rms, 2.0), (_most, 4.0)):
            scales = {name: max(measure(want), largest / 1000) for name, want in wants.items()}
            errors = {name: measure(_gap(got[name], exact[name])) for name in group}
            plain_errors = {name: measure(_gap(usual[name], exact[name])) for name in group}
            least = max((plain_errors[n] / scales[n] for n in group if scales[n]), default=0.0)
            for name in group:
                mine = got[name]
                assert mine.shape == exact[name].shape or not exact[name].ndim, name
                assert torch.equal(mine.isinf(), exact[name].isinf().expand_as(mine)), name
                assert not bool(mine.isnan().any()), f"{name}: NaN"
                # Of few numbers, the plain formula's error is a small sample: it may be small by luck.
                few = 1 + 4 / max(mine.numel(), 1) ** 0.5
                rounding = torch.finfo(mine.dtype).eps * ROUNDINGS.get(mine.dtype, 1)
                allowed = (factor * few * least + rounding) * scales[name]
                allowed += granted * EPS * max(measure(want) for want in wants.values())
                if not errors[name] <= allowed:
                    late.append(
                        f"{name}: {errors[name]:.3g} off ({measure.__name__}); allowed {allowed:.3g}"
                        f", the plain formula {plain_errors[name]:.3g}"
                    )
    assert not late, f"{case}\n  " + "\n  ".join(late)
    for observer in observers(case.sizes):
        if f"{observer!r} keys" in got:
            strongest(got, exact, usual, repr(observer), case)


def _groups(names: Mapping[str, Tensor]) -> list[list[str]]:
    """Each output and statistic by itself; the gradients of one loss together."""
    alone = [[name] for name in names if not name.startswith("d ") and not name.endswith(" keys")]
    together = [[n for n in names if n.startswith(f"d {loss} /")] for loss in ("out", "all")]
    return [*alone, *(group for group in together if group)]


def _finite(tensor: Tensor) -> Tensor:
    return torch.where(tensor.isinf(), 0, tensor).double()


def _gap(mine: Tensor, want: Tensor) -> Tensor:
    return torch.where(want.isinf(), 0, mine.double() - want.double())


def _rms(x: Tensor) -> float:
    return float(x.square().mean().sqrt()) if x.numel() else 0.0


def _most(x: Tensor) -> float:
    return float(x.abs().max()) if x.numel() else 0.0


def distance(mine: Tensor, want: Tensor) -> float:
    return _most(_gap(mine, want))


def strongest(
    got: dict[str, Tensor], exact: dict[str, Tensor], usual: dict[str, Tensor], name: str, case: Case
) -> None:
    """The keys found are the strongest, or as strong as rounding lets one tell."""
    keys, weights = got[f"{name} keys"], got[f"{name} weights"]
    assert keys.dtype == torch.int64
    assert torch.equal(keys == -1, weights == 0), f"{case}: {name} names a key of no weight"
    if not weights.numel() or not case.sizes.k:
        return
    whole = by_backend("reference")(case.build(), (every_row := rows_of(case),))[1][every_row]
    at_keys = whole.gather(-1, keys.clamp(min=0)).masked_fill(keys < 0, 0)
    slack = 2 * distance(usual[f"{name} weights"], exact[f"{name} weights"])
    slack += torch.finfo(weights.dtype).eps * ROUNDINGS.get(weights.dtype, 1)
    assert distance(at_keys, exact[f"{name} weights"]) <= 2 * slack, f"{case}: {name} keys"
    for row in keys.flatten(0, 2)[:50]:
        there = row[row >= 0]
        assert len(there.unique()) == len(there), f"{case}: {name} names a key twice"


def rows_of(case: Case) -> Observer[Any]:
    return Rows(*range(case.sizes.q))
