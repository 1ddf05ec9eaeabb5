"""Positions: what is added, what is turned, and that turning leaves distances alone."""

from __future__ import annotations

import cmath
import inspect
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from cases import Draw
from regard.errors import DtypeError, OptionError, ShapeError
from regard.positions import Alternating, Axes, Axial, Learned, Position, Rotary, Sections, Sinusoidal, XPos
from regard.positions.rotary import _cached_frequencies


def rotated_queries(position: Position, x: Tensor, positions: Tensor) -> Tensor:
    """Vectors turned as queries."""
    return position.turn(x, x, positions)[0]


def by_complex_numbers(x: list[float], position: int, base: float, size: int, pairs: str) -> list[float]:
    """One vector turned as the paper has it: each pair is a complex number, times e^(i · angle)."""
    out = list(x)
    for i in range(size // 2):
        a, b = (i, i + size // 2) if pairs == "halves" else (2 * i, 2 * i + 1)
        turned = complex(x[a], x[b]) * cmath.exp(1j * position / base ** (2 * i / size))
        out[a], out[b] = turned.real, turned.imag
    return out


@pytest.mark.parametrize("pairs", ["halves", "interleaved"])
@pytest.mark.parametrize(("size", "base"), [(None, 10_000.0), (4, 500.0)])
def test_rotary_is_a_product_of_complex_numbers(pairs: str, size: int | None, base: float) -> None:
    x = Draw("rotary").normal(2, 3, 5, 8)
    positions = [0, 1, 7, 100, 100_000]
    turned = rotated_queries(Rotary(base, size, pairs), x, torch.tensor(positions))
    for b, h, n in itertools.product(range(2), range(3), range(5)):
        want = by_complex_numbers(x[b, h, n].tolist(), positions[n], base, size or 8, pairs)
        assert turned[b, h, n].tolist() == pytest.approx(want, abs=1e-10)


def test_rotary_products_depend_on_the_distance_alone() -> None:
    q, k = Draw("distance").normal(2, 1, 1, 6, 16)
    places = torch.arange(6)

    def products(shift: int) -> Tensor:
        q_turned, k_turned = Rotary().turn(q, k, places + shift)
        return q_turned @ k_turned.mT

    torch.testing.assert_close(products(0), products(4321))
    assert not torch.allclose(products(0), q @ k.mT)


def test_queries_and_keys_have_positions_of_their_own() -> None:
    draw = Draw("own")
    q, k = draw.normal(2, 4, 2, 8), draw.normal(2, 2, 5, 8)
    of_q, of_k = torch.tensor([3, 4]), torch.arange(5)
    turned = Rotary().turn(q, k, of_q, of_k)
    torch.testing.assert_close(turned[0], rotated_queries(Rotary(), q, of_q))
    torch.testing.assert_close(turned[1], rotated_queries(Rotary(), k, of_k))


def test_rotary_takes_positions_of_each_batch_row() -> None:
    x = Draw("rows").normal(2, 3, 4, 8)
    positions = torch.tensor([[0, 1, 2, 3], [9, 8, 0, 5]])
    together = rotated_queries(Rotary(), x, positions)
    for row in range(2):
        alone = rotated_queries(Rotary(), x[row : row + 1], positions[row])
        torch.testing.assert_close(together[row : row + 1], alone)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_a_turn_costs_one_rounding(dtype: torch.dtype) -> None:
    x = Draw("rounding").normal(1, 2, 3, 16)
    places = torch.tensor([5, 999_999, 12_345_678])
    exact = rotated_queries(Rotary(), x, places)
    got = rotated_queries(Rotary(), x.to(dtype), places)
    assert got.dtype == dtype
    lengths = exact.unflatten(-1, (2, 8)).norm(dim=-2).repeat(1, 1, 1, 2)
    assert ((got - exact).abs() <= lengths * torch.finfo(dtype).eps).all()


def test_frequencies_are_made_once_and_not_in_a_trace() -> None:
    x = Draw("once").normal(1, 1, 3, 8)
    rotary = Rotary(base=4567.0)
    rotated_queries(rotary, x, torch.arange(3))
    before = _cached_frequencies.cache_info()
    rotated_queries(Rotary(base=4567.0), x, torch.arange(3))
    after = _cached_frequencies.cache_info()
    assert (after.hits, after.misses) == (before.hits + 1, before.misses)
    with FakeTensorMode():
        rotated_queries(Rotary(base=4568.0), torch.empty(1, 1, 3, 8), torch.arange(3))
    assert _cached_frequencies.cache_info() == after
    torch.testing.assert_close(
        rotated_queries(Rotary(base=4568.0), x, torch.arange(3)),
        rotated_queries(Rotary(base=4568.0), x, torch.arange(3)),
    )


AXES = [Axial(2), Alternating(2), Axial(3), Sections((3, 1, 2)), Sections((2, 2, 2), "woven")]


@pytest.mark.parametrize("pairs", ["halves", "interleaved"])
@pytest.mark.parametrize("axes", AXES, ids=str)
def test_each_pair_turns_with_one_axis(axes: Axes, pairs: str) -> None:
    n, size, base = axes.number, 12, 100.0
    x = Draw("axes").normal(2, 2, 4, 12)
    places = Draw("places").integers(0, 50, 2, 4, n)
    turned = rotated_queries(Rotary(base, pairs=pairs, axes=axes), x, places)
    # Of each pair its axis, and the exponent of its speed, by hand.
    match axes:
        case Axial(2):
            table = [(0, 0), (0, 2 / 6), (0, 4 / 6), (1, 0), (1, 2 / 6), (1, 4 / 6)]
        case Axial(3):
            table = [(0, 0), (0, 2 / 4), (1, 0), (1, 2 / 4), (2, 0), (2, 2 / 4)]
        case Alternating(2):
            table = [(0, 0), (0, 4 / 12), (0, 8 / 12), (1, 2 / 12), (1, 6 / 12), (1, 10 / 12)]
        case Sections((3, 1, 2)):
            table = [(axis, 2 * i / 12) for i, axis in enumerate((0, 0, 0, 1, 2, 2))]
        case _:
            table = [(axis, 2 * i / 12) for i, axis in enumerate((0, 1, 2, 0, 1, 2))]
    for b, h, token in itertools.product(range(2), range(2), range(4)):
        for i, (axis, exponent) in enumerate(table):
            first, second = (i, i + size // 2) if pairs == "halves" else (2 * i, 2 * i + 1)
            angle = int(places[b, token, axis]) * base**-exponent
            vector = x[b, h, token].tolist()
            want = complex(vector[first], vector[second]) * cmath.exp(1j * angle)
            got = turned[b, h, token].tolist()
            assert got[first] == pytest.approx(want.real, abs=1e-10)
            assert got[second] == pytest.approx(want.imag, abs=1e-10)
    torch.testing.assert_close(  # the same positions for every batch row
        rotated_queries(Rotary(base, pairs=pairs, axes=axes), x[:1], places[0]), turned[:1]
    )


def test_text_has_one_place_on_all_sections() -> None:
    x, places = Draw("text").normal(1, 2, 5, 12), torch.arange(5)
    sections = Rotary(axes=Sections((3, 1, 2)))
    torch.testing.assert_close(
        rotated_queries(sections, x, places[:, None].expand(5, 3)), rotated_queries(Rotary(), x, places)
    )


@pytest.mark.parametrize("pairs", ["halves", "interleaved"])
@pytest.mark.parametrize("centre", [0, 700, None])
def test_xpos_products_fade_by_pair(centre: int | None, pairs: str) -> None:
    draw = Draw("xpos")
    q, k = draw.normal(1, 1, 3, 8), draw.normal(1, 1, 4, 8)
    of_q, of_k = torch.tensor([5, 900, 2000]), torch.tensor([0, 4, 800, 2000])
    xpos = XPos(Rotary(size=6, pairs=pairs), centre=centre)
    q_turned, k_turned = xpos.turn(q, k, of_q, of_k)
    got = (q_turned @ k_turned.mT)[0, 0]
    for i, j in itertools.product(range(3), range(4)):
        distance = int(of_q[i] - of_k[j])
        want = sum(float(q[0, 0, i, c] * k[0, 0, j, c]) for c in (6, 7))  # not turned
        for p in range(3):
            a, b = (p, p + 3) if pairs == "halves" else (2 * p, 2 * p + 1)
            x, y = (complex(float(t[a]), float(t[b])) for t in (q[0, 0, i], k[0, 0, j]))
            zeta = (2 * p / 6 + 0.4) / 1.4
            wave = cmath.exp(1j * distance * 10_000 ** (-2 * p / 6))
            want += (x * y.conjugate() * wave).real * zeta ** (distance / 512)
        assert float(got[i, j]) == pytest.approx(want, rel=1e-9, abs=1e-9)


def test_xpos_at_a_long_length_is_as_near_the_start() -> None:
    draw = Draw("xpos far")
    q, k = draw.normal(1, 2, 2000, 16).float(), draw.normal(1, 2, 2000, 16).float()
    places = torch.arange(2000)
    products = [
        (q_turned @ k_turned.mT).tril()
        for q_turned, k_turned in (
            XPos().turn(q, k, places),
            XPos().turn(q, k, places + 12_000),
            XPos(centre=None).turn(q, k, places + 12_000_000),
            XPos(centre=100_000).turn(q, k, places + 100_000),
        )
    ]
    for far in products[1:]:
        assert far.isfinite().all()
        torch.testing.assert_close(far, products[0], rtol=1e-4, atol=1e-4)
    with pytest.raises(OptionError, match="12001999 from the centre of XPos"):
        XPos().turn(q, k, places + 12_000_000)
    with pytest.raises(OptionError, match="at most 1812 from the centre, in float16"):
        XPos().turn(q.half(), k.half(), places)


def test_sinusoidal_is_the_formula_of_the_paper() -> None:
    added = Sinusoidal().add(torch.zeros(1, 3, 5), torch.tensor([0, 2, 50]))
    for row, position in enumerate((0, 2, 50)):
        for component in range(5):
            angle = torch.tensor(position / 10_000 ** (component // 2 * 2 / 5))
            expected = angle.cos() if component % 2 else angle.sin()
            assert added[0, row, component] == pytest.approx(float(expected), abs=1e-5)


def test_learned_adds_rows_and_learns() -> None:
    position = Learned.fresh(length=6, width=4)
    out = position.add(torch.zeros(1, 2, 4), torch.tensor([5, 0]))
    assert torch.equal(out[0], position.table[[5, 0]])
    out.sum().backward()
    assert position.table.grad is not None
    assert position.table.grad.sum(-1).tolist() == [4, 0, 0, 0, 0, 4]


def unchecked(method: Callable[..., Any]) -> Callable[..., Any]:
    """A method as users have it, without the shape checks that tests put around it."""
    return inspect.unwrap(method)


def sinusoidal_sum(x: Tensor, positions: Tensor) -> Tensor:
    """`Sinusoidal().add`, past the same checks."""
    return unchecked(Sinusoidal.add)(Sinusoidal(), x, positions)


def learned_from(table: Tensor) -> Learned:
    """`Learned(table)`, past the same checks."""
    position = object.__new__(Learned)
    object.__setattr__(position, "table", table)
    unchecked(Learned.__post_init__)(position)
    return position


@pytest.mark.parametrize(
    ("call", "error", "said"),
    [
        (lambda: Rotary(base=1.0), OptionError, "above 1"),
        (lambda: Rotary(size=3), OptionError, "even number"),
        (lambda: Rotary(pairs="thirds"), OptionError, "'halves' or 'interleaved'"),
        (lambda: rotated_queries(Rotary(), torch.zeros(1, 1, 2, 3), torch.arange(2)), ShapeError, "even head size"),
        (lambda: rotated_queries(Rotary(size=8), torch.zeros(1, 1, 2, 4), torch.arange(2)), ShapeError, "size=…"),
        (lambda: rotated_queries(Rotary(), torch.zeros(1, 1, 2, 4), torch.arange(3)), ShapeError, "(2,) or (batch, 2)"),
        (
            lambda: Rotary().turn(torch.zeros(1, 1, 2, 4), torch.zeros(1, 1, 3, 4), torch.arange(2)),
            ShapeError,
            "key_positions: got shape (2,); allowed: (3,)",
        ),
        (
            lambda: rotated_queries(Rotary(axes=Axial(2)), torch.zeros(1, 1, 2, 4), torch.arange(2)),
            ShapeError,
            "(2, 2) or (batch, 2, 2). Give the position on each axis",
        ),
        (lambda: rotated_queries(Rotary(), torch.zeros(1, 1, 3, 4), torch.zeros(3, 2).long()), ShapeError, "(3,)"),
        (
            lambda: rotated_queries(Rotary(axes=Axial(2)), torch.zeros(1, 1, 2, 6), torch.zeros(2, 2).long()),
            OptionError,
            "2 for 6 components",
        ),
        (
            lambda: rotated_queries(Rotary(axes=Sections((1, 2))), torch.zeros(1, 1, 2, 4), torch.zeros(2, 2).long()),
            OptionError,
            "2 pairs in all",
        ),
        (lambda: Axial(0), OptionError, "≥ 1"),
        (lambda: Alternating(0), OptionError, "≥ 1"),
        (lambda: Sections((1, -1)), OptionError, "≥ 0"),
        (lambda: Sections((1, 1), "odd"), OptionError, "'blocks' or 'woven'"),
        (lambda: XPos(scale=0.0), OptionError, "scale=512"),
        (lambda: XPos(gamma=-0.4), OptionError, "gamma=0.4"),
        (lambda: XPos(Rotary(axes=Axial(2))), OptionError, "one axis"),
        (lambda: Sinusoidal(base=0.0), OptionError, "above 1"),
        (lambda: sinusoidal_sum(torch.zeros(1, 2, 4), torch.arange(3)), ShapeError, "(2,)"),
        (lambda: learned_from(torch.zeros(3)), ShapeError, "(length, width)"),
        (lambda: Learned.fresh(4, 8).add(torch.zeros(1, 1, 4), torch.arange(1)), ShapeError, "width"),
        (lambda: Learned.fresh(4, 8).add(torch.zeros(1, 1, 8), torch.tensor([4])), OptionError, "0 to 3"),
    ],
)
def test_a_refusal_says_what_is_allowed(call, error, said) -> None:
    with pytest.raises(error) as caught:
        call()
    assert said in str(caught.value)


def test_positions_must_be_whole_numbers() -> None:
    position = Learned.fresh(4, 8)
    with pytest.raises(DtypeError, match="an integer tensor"):
        unchecked(Learned.add)(position, torch.zeros(1, 1, 8), torch.zeros(1))
