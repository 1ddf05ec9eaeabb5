"""Every mask, bias, score, normalizer and observer of regard stands in tests/cases.py."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import pytest

import cases
from cases import BIASES, CASES, LAYOUTS, MASKS, NORMALIZERS, SCORES, SHAPES, Draw, observers
from regard.spec.biases import Bias, ByDistance, as_bias
from regard.spec.masks import Mask, as_mask
from regard.spec.normalizers import Normalizer, as_normalizer
from regard.spec.observers import Observer
from regard.spec.scores import Score, as_score
from regard.spec.values import Value

ABSTRACT: set[type[Value]] = {Mask, Bias, ByDistance, Score, Normalizer, Observer}


def members(kind: type[Value]) -> set[type[Value]]:
    """Every class of regard below `kind` that a user can make a value of."""
    found: set[type[Value]] = set()
    for below in kind.__subclasses__():
        found |= members(below)
        # What `regard look` watches with are its own, and its tests hold them to plain softmax.
        ours = below.__module__.startswith("regard.") and "regard.look" not in below.__module__
        if ours and below not in ABSTRACT:
            found.add(below)
    return found


def kinds(values: Iterable[Value]) -> set[type[Any]]:
    return {type(part) for value in values for part in _parts(value)}


def _parts(value: Value) -> Iterator[Value]:
    yield value
    for content in value._contents():
        if isinstance(content, Value):
            yield from _parts(content)


def listed(kind: type[Value]) -> set[type[Any]]:
    s, draw = SHAPES["square"], Draw("house")
    if kind is Observer:
        return kinds(observers(s))
    table, read = {
        Mask: (MASKS, as_mask),
        Bias: (BIASES, as_bias),
        Score: (SCORES, as_score),
        Normalizer: (NORMALIZERS, as_normalizer),
    }[kind]
    return kinds(read(part(s, draw)) for part in table.values())


@pytest.mark.parametrize("kind", [Mask, Bias, Score, Normalizer, Observer])
def test_every_member_is_listed(kind: type[Value]) -> None:
    missing = {member.__name__ for member in members(kind) - listed(kind)}
    assert not missing, f"no row in tests/cases.py has {missing}"


@pytest.mark.parametrize(
    ("part", "table"),
    [
        ("mask", MASKS),
        ("bias", BIASES),
        ("score", SCORES),
        ("normalizer", NORMALIZERS),
        ("shape", SHAPES),
        ("layout", LAYOUTS),
    ],
)
def test_every_part_is_used_in_a_case(part: str, table: dict[str, Any]) -> None:
    unused = set(table) - {getattr(case, part) for case in CASES}
    assert not unused, f"no case has the {part} {unused}"


def test_every_dtype_is_used_with_every_part() -> None:
    for part in ("score", "normalizer", "bias"):
        for name in {getattr(case, part) for case in CASES}:
            dtypes = {case.dtype for case in CASES if getattr(case, part) == name}
            assert len(dtypes) >= 3, f"{part} {name}: only {dtypes}"


def test_ids_are_unique_and_cases_are_repeatable() -> None:
    assert len({str(case) for case in CASES}) == len(CASES)
    case = cases.Case(mask="tensor", bias="sum", normalizer="sink")
    for name, tensor in case.build().leaves().items():
        assert tensor.equal(case.build().leaves()[name])
