"""The lesson's numbers: by hand, against the library, and each against what it says it was made of."""

from __future__ import annotations

import math

import pytest
import torch

from regard import Causal, Entropy, Rows, attention, observe
from regard.analysis.worked_example import (
    CHOSEN,
    HEADS,
    OUTPUT,
    How,
    Lesson,
    Number,
    Role,
    WorkedHead,
    embedding,
    values,
)
from regard.errors import OptionError, ShapeError
from regard.spec.masks import Everything, Mask, Where, Window
from regard.spec.scores import Dot

TEXTS = ["the river bank", "the money bank", "tea and then tea again", "one two", "é ✓ 漢字 a b c"]


def flat(lesson: Lesson) -> list[Number]:
    found = {id(n): n for row in lesson.out for number in row for n in number.origins()}
    return list(found.values())


def plain(head: WorkedHead) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    q, k, v = (values(rows)[None, None] for rows in (head.q, head.k, head.v))
    return q, k, v


def test_the_default_by_hand() -> None:
    lesson = Lesson.of()
    head = lesson.heads[0]
    assert lesson.words == ("the", "river", "bank")
    assert lesson.chosen
    assert values(head.q).tolist() == [[-1, -1], [2, 0], [1, 1]]
    assert values(head.k).tolist() == [[0, -1.5], [1, 2], [0, 1.5]]
    assert values(head.v).tolist() == [[-0.5, -0.5], [3, -1], [0.5, 0.5]]
    assert values(head.scores).tolist() == [[1.5, -3, -1.5], [0, 2, 0], [-1.5, 3, 1.5]]
    exps = [math.exp(-4.5 / math.sqrt(2)), 1, math.exp(-1.5 / math.sqrt(2))]
    weights = [e / sum(exps) for e in exps]
    assert [n.value for n in head.weights[2]] == pytest.approx(weights, rel=1e-14)
    out = [-0.5 * weights[0] + 3 * weights[1] + 0.5 * weights[2], -0.5 * weights[0] - 1 * weights[1] + 0.5 * weights[2]]
    assert [n.value for n in head.out[2]] == pytest.approx(out, rel=1e-14)
    second = lesson.heads[1].out[2]
    assert [n.value for n in lesson.out[2]] == pytest.approx(
        [out[0] + second[0].value / 2, out[1] + second[1].value / 2], rel=1e-14
    )


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("mask", [None, Everything(), Window(1)], ids=["causal", "full", "window"])
def test_the_library_gives_the_same(text: str, mask: Mask | None) -> None:
    lesson = Lesson.of(text, mask=mask)
    for head in lesson.heads:
        q, k, v = plain(head)
        every = Rows(*range(len(lesson.words)))
        seen = observe(q, k, v, every, Entropy(), mask=mask or Causal(), backend="reference")
        torch.testing.assert_close(seen.out[0, 0], values(head.out), rtol=1e-13, atol=1e-15)
        torch.testing.assert_close(seen[every][0, 0], values(head.weights), rtol=1e-13, atol=1e-15)
    joined = torch.cat([values(head.out) for head in lesson.heads], -1)
    expected = joined @ torch.tensor(OUTPUT, dtype=torch.float64)
    torch.testing.assert_close(values(lesson.out), expected, rtol=1e-13, atol=1e-15)


def test_another_divisor_is_another_scale() -> None:
    head = Lesson.of(divisor=4.0).heads[0]
    out = attention(*plain(head), mask=Causal(), score=Dot(scale=0.25), backend="reference")
    torch.testing.assert_close(out[0, 0], values(head.out), rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("text", TEXTS)
def test_every_number_follows_from_its_operands(text: str) -> None:
    again = {
        How.PRODUCTS: lambda o: math.fsum(a * b for a, b in zip(o[::2], o[1::2], strict=True)),
        How.ROOT: lambda o: o[0] ** 0.5,
        How.DIVIDE: lambda o: o[0] * (1 / o[1]),
        How.MASK: lambda o: -math.inf,
        How.MAXIMUM: lambda o: sorted(o)[-1],
        How.SUBTRACT: lambda o: -(o[1] - o[0]),
        How.EXP: lambda o: math.e ** o[0],
        How.SUM: math.fsum,
    }
    seen: set[How] = set()
    for number in flat(Lesson.of(text)):
        seen.add(number.how)
        operands = [one.value for one in number.operands]
        if number.how is How.GIVEN:
            assert not operands
        else:
            assert number.value == pytest.approx(again[number.how](operands), rel=1e-12, abs=1e-15)
    assert seen == set(How)


def test_a_number_knows_where_it_comes_from() -> None:
    weight = Lesson.of().heads[0].weights[2][1]
    given = {n.name for n in weight.origins() if n.how is How.GIVEN}
    assert {"x₁(river)", "x₂(bank)", "W_q head 1[1,1]", "d"} <= given
    assert not any("W_v" in name for name in given)  # values have no say in the weights
    assert weight.role is Role.WEIGHT


def test_weights_are_between_0_and_1_and_sum_to_1() -> None:
    for text in TEXTS:
        for head in Lesson.of(text).heads:
            weights = values(head.weights)
            assert ((weights >= 0) & (weights <= 1)).all()
            torch.testing.assert_close(weights.sum(-1), torch.ones(len(weights), dtype=torch.float64))


def test_context_changes_the_word() -> None:
    river, money = (Lesson.of(f"the {word} bank") for word in ("river", "money"))
    assert values(river.x)[2].tolist() == values(money.x)[2].tolist()
    water, cash = values(river.heads[0].out)[2]
    assert water > 2 > 0 > cash
    torch.testing.assert_close(values(money.heads[0].out)[2], torch.stack([cash, water]))


def test_tied_maps_have_no_direction() -> None:
    scores = values(Lesson.of(heads=(HEADS[0].tied(),)).heads[0].scores)
    assert torch.equal(scores, scores.T)
    own = values(Lesson.of().heads[0].scores)
    assert (own[2, 1], own[1, 2]) == (3, 0)


def test_words_of_ones_own() -> None:
    lesson = Lesson.of("Tea, tea  unbelievable")
    assert not lesson.chosen
    assert lesson.labels == ("Tea,", "tea", "unbelie…")
    assert lesson.x[0][0].value == lesson.x[1][0].value  # the same word, whatever stands around it
    assert Lesson.of("no no").labels == ("no₁", "no₂")
    assert Lesson.of("The RIVER bank!").chosen
    assert all(embedding(word) != (0.0, 0.0) for word in (*CHOSEN, *map(str, range(300))))
    assert "\x1b" not in Lesson.of("a\x1b[31m b").words[0]


@pytest.mark.parametrize(
    ("call", "kind", "said"),
    [
        (
            lambda: Lesson.of(""),
            OptionError,
            "text: got 0 words; allowed: 2 to 6 words, parted by spaces. "
            "Try 'the river bank'; for whole files there is `regard look`.",
        ),
        (lambda: Lesson.of("one"), OptionError, "text: got 1 word; allowed: 2 to 6 words"),
        (lambda: Lesson.of("a b c d e f g"), OptionError, "text: got 7 words"),
        (lambda: Lesson.of(divisor=0.0), OptionError, "divisor: got 0.0; allowed: a finite number above 0"),
        (lambda: Lesson.of(divisor=math.nan), OptionError, "divisor: got nan"),
        (lambda: Lesson.of(heads=()), ShapeError, "heads: got none; allowed: one `Maps` for each head"),
        (lambda: Lesson.of(output=((1, 0),)), ShapeError, "output: got 1 rows of 2; allowed: 4 rows of 2"),
        (
            lambda: Lesson.of(mask=Where(lambda b, h, q, k: q != 0)),
            OptionError,
            "mask: got a mask that hides every key from a query",
        ),
    ],
)
def test_refusals(call, kind, said) -> None:
    with pytest.raises(kind) as caught:
        call()
    assert str(caught.value).startswith(said)
