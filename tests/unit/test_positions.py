"""Positions: what is added, what is turned, and that turning leaves distances alone."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from regard.errors import DtypeError, OptionError, ShapeError
from regard.positions import Learned, Rotary, Sinusoidal


def test_rotary_is_a_complex_product_of_halves() -> None:
    x = torch.randn(2, 3, 5, 8, dtype=torch.float64)
    positions = torch.tensor([0, 1, 7, 100, 100_000])
    turned = Rotary(base=500.0).turn(x, positions)
    pairs = torch.complex(x[..., :4], x[..., 4:])
    speed = 500.0 ** (-torch.arange(4, dtype=torch.float64) / 4)
    angles = positions[:, None] * speed
    wanted = pairs * torch.polar(torch.ones_like(angles), angles)
    torch.testing.assert_close(turned, torch.cat((wanted.real, wanted.imag), -1))


def test_rotary_products_depend_on_the_distance_alone() -> None:
    q, k = torch.randn(2, 1, 1, 6, 16, dtype=torch.float64)
    places = torch.arange(6)

    def products(shift: int) -> Tensor:
        turn = Rotary().turn
        return turn(q, places + shift) @ turn(k, places + shift).mT

    torch.testing.assert_close(products(0), products(4321))


def test_rotary_keeps_the_rest_of_a_head_as_it_is() -> None:
    x = torch.randn(1, 2, 4, 12)
    turned = Rotary(size=8).turn(x, torch.arange(4))
    torch.testing.assert_close(turned[..., :8], Rotary().turn(x[..., :8], torch.arange(4)))
    assert torch.equal(turned[..., 8:], x[..., 8:])


def test_rotary_takes_positions_of_each_batch_row() -> None:
    x = torch.randn(2, 3, 4, 8)
    positions = torch.tensor([[0, 1, 2, 3], [9, 8, 0, 5]])
    together = Rotary().turn(x, positions)
    for row in range(2):
        alone = Rotary().turn(x[row : row + 1], positions[row])
        torch.testing.assert_close(together[row : row + 1], alone)


def test_sinusoidal_is_the_formula_of_the_paper() -> None:
    added = Sinusoidal().add(torch.zeros(1, 3, 5), torch.tensor([0, 2, 50]))
    for row, position in enumerate((0, 2, 50)):
        for component in range(5):
            angle = torch.tensor(position / 10_000 ** (component // 2 * 2 / 5))
            wanted = angle.cos() if component % 2 else angle.sin()
            assert added[0, row, component] == pytest.approx(float(wanted), abs=1e-5)


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
        (lambda: Rotary().turn(torch.zeros(1, 1, 2, 3), torch.arange(2)), ShapeError, "even head size"),
        (lambda: Rotary(size=8).turn(torch.zeros(1, 1, 2, 4), torch.arange(2)), ShapeError, "size=…"),
        (lambda: Sinusoidal(base=0.0), OptionError, "above 1"),
        (lambda: sinusoidal_sum(torch.zeros(1, 2, 4), torch.arange(3)), ShapeError, "(2,)"),
        (lambda: learned_from(torch.zeros(3)), ShapeError, "(length, width)"),
        (lambda: Learned.fresh(4, 8).add(torch.zeros(1, 1, 4), torch.arange(1)), ShapeError, "width"),
        (lambda: Learned.fresh(4, 8).add(torch.zeros(1, 1, 8), torch.tensor([4])), OptionError, "0 to 3"),
    ],
)  # fmt: skip
def test_a_refusal_says_what_is_allowed(call, error, said) -> None:
    with pytest.raises(error) as caught:
        call()
    assert said in str(caught.value)


def test_positions_must_be_whole_numbers() -> None:
    position = Learned.fresh(4, 8)
    with pytest.raises(DtypeError, match="an integer tensor"):
        unchecked(Learned.add)(position, torch.zeros(1, 1, 8), torch.zeros(1))
