"""Any call at all, on every instruction set that is here, against the formula in float64."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from native.raw import LAYOUTS, Recipe, check
from native.statistics_cases import check_statistics
from regard._native import core

DTYPES = st.sampled_from([torch.float32, torch.bfloat16, torch.float16])
SMALL = st.integers(1, 3)
# A hundred examples where a profile wants forty.
MANY = settings(max_examples=5 * settings().max_examples // 2)


def lengths(most: int) -> st.SearchStrategy[int]:
    edges = [n for n in (1, 4, 5, 63, 64, 65, 127, 128, 129, 255, 256, 257) if n <= most]
    return st.one_of(st.sampled_from(edges), st.integers(1, most))


@MANY
@given(
    recipe=st.builds(
        Recipe,
        dtype=DTYPES,
        b=SMALL,
        g=SMALL,
        repeats=st.sampled_from([1, 1, 2, 5, 17]),
        q=lengths(140),
        k=lengths(600),
        d=lengths(140),
        dv=lengths(140),
        layouts=st.tuples(*[st.sampled_from(LAYOUTS)] * 3),
        written=st.sampled_from(["heads apart", "heads in rows", "wide rows", "every other", "turned"]),
        mask=st.sampled_from(["none", "causal"]),
        scale=st.sampled_from([None, None, None, 0.3, -0.2, 0.0]),
        lse_grad=st.booleans(),
        seed=st.integers(0, 99),
    ),
    isa=st.sampled_from(core.kernels()),
    threads=SMALL,
)
def test_any_shape_and_stride(recipe: Recipe, isa: str, threads: int) -> None:
    check(recipe, [isa], threads)


def masked_and_biased(**more: st.SearchStrategy[Any]) -> st.SearchStrategy[Recipe]:
    """Recipes of any mask and bias, in small sizes."""
    few, none = st.integers(1, 2), 0.0
    return st.builds(
        Recipe,
        dtype=DTYPES,
        b=few,
        g=few,
        repeats=few,
        q=lengths(200),
        d=st.integers(1, 40),
        dv=st.integers(1, 40),
        mask=st.sampled_from(["none", "causal", "spans", "tiles", "both"]),
        own=st.tuples(st.booleans(), st.booleans()),
        bias=st.one_of(st.none(), st.tuples(*[st.booleans()] * 4)),
        sink=st.booleans(),
        softcap=st.sampled_from([none, none, 2.0]),
        dropout=st.sampled_from([none, none, 0.3]),
        **more,
    )


@MANY
@given(
    recipe=masked_and_biased(
        k=lengths(300),
        table=st.sampled_from(["none", "shared", "by head"]),
        wide_bias=st.booleans(),
        sigmoid=st.sampled_from([False, False, True]),
        lse_grad=st.booleans(),
        seed=st.integers(0, 99),
    ),
    isa=st.sampled_from(core.kernels()),
    threads=SMALL,
)
def test_any_mask_and_bias(recipe: Recipe, isa: str, threads: int) -> None:
    check(recipe, [isa], threads)


@MANY
@given(
    recipe=masked_and_biased(
        k=lengths(600),
        layouts=st.tuples(*[st.sampled_from(LAYOUTS)] * 3),
        table=st.sampled_from(["none", "none", "by head"]),
        scale=st.sampled_from([None, None, -0.2, 0.0]),
        seed=st.integers(0, 999),
    ),
    isa=st.sampled_from(core.kernels()),
    threads=SMALL,
)
def test_any_statistic(recipe: Recipe, isa: str, threads: int) -> None:
    check_statistics(recipe, [isa], threads)


@pytest.mark.parametrize("name", ["out", "q", "table"])
def test_a_wrong_answer_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from native import raw

    right = raw.run
    recipe = Recipe(q=20, k=30, table="by head", seed=3)

    def wrong(*args: object) -> dict[str, torch.Tensor]:
        answers = right(*args)  # pyright: ignore[reportArgumentType]
        answers[name].view(-1)[5] += 0.01
        return answers

    check(recipe, core.kernels())
    monkeypatch.setattr(raw, "run", wrong)
    with pytest.raises(AssertionError, match=f"{name}: 0.01 off"):
        check(recipe, core.kernels())
