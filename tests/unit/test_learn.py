"""The lesson as it is printed: what is shown adds up, fits the terminal, and waits only for who is there."""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
from collections.abc import Callable, Iterator

import pytest
from rich.console import Console

from regard import learn
from regard.analysis.worked_example import COLOURS, Lesson, Role
from regard.errors import OptionError
from regard.learn.drawing import decimals_that_add_up, equation

LONG = "antidisestablishmentarianism is longer than it looks"
TEXTS = [None, "the money bank", "I really love my cat, my", LONG]


def printed(text: str | None = None, width: int = 80, *, step: bool = False, colour: bool = False) -> str:
    out = io.StringIO()
    system = "truecolor" if colour else None
    learn.main(text, step, Console(file=out, width=width, force_terminal=colour, color_system=system))
    return out.getvalue()


def sums(text: str) -> list[tuple[list[float], float, list[tuple[float, float]]]]:
    """Every printed sum: its terms, its result, and the factors of its terms."""
    found: list[tuple[list[float], float, list[tuple[float, float]]]] = []
    for line in text.replace("−", "-").splitlines():
        match = re.fullmatch(r"\S.*?\) = (.*) [=≈] (.*) = (\S+)", line)
        assert match, line
        factors, terms, total = match.groups()
        products = [tuple(float(f.strip("()")) for f in one.split("×")) for one in factors.split(" + ")]
        numbers = [float(t) for t in terms.replace("- ", "+ -").split(" + ")]
        found.append((numbers, float(total), products))  # pyright: ignore[reportArgumentType]
    return found


@pytest.mark.parametrize("text", TEXTS)
def test_printed_sums_add_up_as_printed(text: str | None) -> None:
    lesson = Lesson.of() if text is None else Lesson.of(text)
    grids = [lesson.out, *(g for h in lesson.heads for g in (h.q, h.k, h.v, h.scores, h.out))]
    made = [number for grid in grids for row in grid for number in row]
    shown = sums("\n".join(equation(number).plain for number in made))
    assert len(shown) == len(made) > 30
    for (terms, total, factors), number in zip(shown, made, strict=True):
        least = 10.0 ** -decimals_that_add_up(number)
        assert sum(terms) == pytest.approx(total, abs=1e-9)
        assert total == pytest.approx(number.value, abs=least / 2 + 1e-12)
        for (a, b), term in zip(factors, terms, strict=True):
            assert a * b == pytest.approx(term, abs=least)


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("text", TEXTS)
def test_it_fits_the_terminal_and_nothing_is_cut(text: str | None, width: int) -> None:
    lines = printed(text, width).splitlines()
    assert max(len(line) for line in lines) <= min(width, learn.WIDEST)
    numbers = [line for line in lines if "→" in line or "−" in line]
    labels = Lesson.of(text).labels if text else ()
    for line in numbers:
        for label in labels:
            line = line.replace(label, "")
        assert "…" not in line


def test_the_story() -> None:
    said = " ".join(printed().split())
    for phrase in (
        "Why separate query, key and value vectors?",
        "“bank” looking for “river” scores 3; “river” looking for “bank” scores 0",
        "How does attention help a model understand context?",
        "The query of “bank” fits the key of “river” best.",
        "“bank” gives the most weight to “river”: 72%.",
        "this “bank” is about water",
        "regard look FILE.py",
        "score(bank → river) = 1×1 + 1×2 = 1 + 2 = 3",
        "gives this table; the largest difference is",
    ):
        assert phrase in said
    assert "made up from the letters" not in said
    assert "made up from the letters of your words" in " ".join(printed("my own words").split())


def test_one_colour_for_each_role() -> None:
    assert len(set(COLOURS.values())) == len(COLOURS) == 5
    red, green, blue = (int(COLOURS[Role.WEIGHT][i : i + 2], 16) for i in (1, 3, 5))
    coloured = printed(colour=True)
    assert f"38;2;{red};{green};{blue}" in coloured
    assert "\x1b" not in printed()


@pytest.fixture
def feed(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[bytes], int]]:
    """Standard input as a pipe that holds some bytes; it stays open until its writing end is closed."""
    with contextlib.ExitStack() as stack:

        def fed(written: bytes) -> int:
            reader, writer = os.pipe()
            os.write(writer, written)
            monkeypatch.setattr(sys, "stdin", stack.enter_context(os.fdopen(reader)))
            monkeypatch.setattr(learn, "PATIENCE", 0.01)
            return writer

        yield fed


@pytest.mark.parametrize(("written", "steps"), [(b"", 1), (b"\n\n", 3), (b"\nq\n\n", 2), (b"\n" * 13, 14)])
def test_step_waits_and_leaves(feed: Callable[[bytes], int], written: bytes, steps: int) -> None:
    os.close(feed(written))
    assert len(re.findall(r"^\d+  .*──$", printed(step=True), re.M)) == steps


def test_step_does_not_hang_on_a_silent_pipe(feed: Callable[[bytes], int]) -> None:
    writer = feed(b"\n")
    assert "What to try next" in printed(step=True)
    os.close(writer)


def test_a_refusal_says_what_to_do() -> None:
    with pytest.raises(OptionError, match=r"text: got 1 word; allowed: 2 to 6 words.*Try 'the river bank'"):
        printed("alone")
