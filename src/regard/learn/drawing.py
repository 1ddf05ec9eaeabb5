"""Numbers, sums and tables of the lesson as lines of a terminal."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

from rich import box
from rich.console import Console, ConsoleOptions, RenderableType
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from regard.analysis.worked_example import COLOURS, How, Lesson, Matrix, Number, Role, Vector, WorkedHead

FEW = 3
"""Words up to which every sum is written out; of more, those of the last word."""

DECIMALS = range(3, 8)


def style(role: Role) -> str:
    """The colour of a role, or none."""
    return COLOURS.get(role, "")


def say(text: str) -> Text:
    """A sentence, in the terminal's own colour."""
    return Text(text)


def number(value: float, decimals: int | None = None) -> str:
    """A number as it is shown: as short as it is exact, else with four decimals (or as many as given).

    >>> number(0.5), number(-2.0), number(2**0.5), number(-float("inf")), number(-1.23e-7)
    ('0.5', '−2', '1.4142', '−∞', '0.0000')
    """
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if exact(value) and (decimals is None or decimals >= 3):
        text = f"{value:.3f}".rstrip("0").rstrip(".")
    else:
        text = f"{value:.{4 if decimals is None else decimals}f}"
    if text.strip("-0.") == "":  # 0, or too small for so many decimals: then without a sign
        return "0" if exact(value) else text.removeprefix("-")
    return text.replace("-", "−")


def exact(value: float) -> bool:
    """Whether three decimals say the whole of a number."""
    return math.isinf(value) or abs(value - round(value, 3)) < 1e-12


def vector(numbers: Iterable[Number]) -> str:
    """A few numbers in parentheses.

    >>> vector(Lesson.of().x[1])
    '(2, 0)'
    """
    return f"({', '.join(number(component.value) for component in numbers)})"


def equation(result: Number) -> Text:
    """A sum of products, written out: factors, terms, result, each factor in the colour of its role.

    >>> print(equation(Lesson.of().heads[0].scores[2][1]))
    score(bank → river) = 1×1 + 1×2 = 1 + 2 = 3
    """
    factors, terms = _sides(result)
    return factors + terms


def _sides(result: Number) -> tuple[Text, Text]:
    """An equation in two parts, each of which may have a line of its own."""
    decimals = decimals_that_add_up(result)
    whole = all(exact(term.value) for term in (result, *result.operands))
    line = Text.assemble((result.name, style(result.role)), " = ")
    for place, (a, b) in enumerate(result.terms):
        line.append(" + " if place else "")
        line.append(_factor(a, decimals + 1, first=not place), style(a.role))
        line.append("×")
        line.append(_factor(b, decimals + 1), style(b.role))
    terms = [number(a.value * b.value, decimals) for a, b in result.terms]
    after = Text(" = " if whole else " ≈ ")
    after.append(" + ".join(terms).replace("+ −", "− "))
    after.append(" = ")
    after.append(number(result.value, decimals), f"bold {style(result.role)}")
    return line, after


def decimals_that_add_up(result: Number) -> int:
    """The least number of decimals with which the printed terms add up to the printed sum."""
    for decimals in DECIMALS:
        terms = [round(round(a.value * b.value, decimals) * 10**decimals) for a, b in result.terms]
        if sum(terms) == round(round(result.value, decimals) * 10**decimals):
            return decimals
    return DECIMALS[-1]


def working(result: Number) -> Text:
    """A number with what it was computed from.

    >>> head = Lesson.of().heads[0]
    >>> some = head.scores[2][1], head.scaled[2][1], head.maxima[1], head.exps[2][2], head.masked[0][1]
    >>> for result in some:
    ...     print(working(result))
    score(bank → river) = 1×1 + 1×2 = 1 + 2 = 3
    scaled(bank → river) = 3 ÷ 1.4142 ≈ 2.1213
    maximum(river) = max(0, 1.4142, −∞) ≈ 1.4142
    exp(bank → bank) = exp(−1.0607) ≈ 0.3462
    masked(the → river) = −∞, since the query may not see this key
    """
    if result.how is How.PRODUCTS:
        return equation(result)
    of = [number(operand.value) for operand in result.operands]
    formulas = {How.ROOT: "√{0}", How.DIVIDE: "{0} ÷ {1}", How.SUBTRACT: "{0} − {1}", How.EXP: "exp({0})"}
    if result.how is How.SUBTRACT and of[1].startswith("−"):
        of[1] = f"({of[1]})"
    line = Text.assemble((result.name, style(result.role)), " = ")
    if result.how is How.MASK:
        return line.append("−∞, since the query may not see this key")
    if result.how in formulas:
        line.append(formulas[result.how].format(*of))
    elif result.how is How.MAXIMUM:
        line.append(f"max({', '.join(of)})")
    elif result.how is How.SUM:
        line.append(" + ".join(of))
    if result.operands:
        line.append(" = " if all(exact(term.value) for term in (result, *result.operands)) else " ≈ ")
    return line.append(number(result.value), f"bold {style(result.role)}")


class Equations:
    """The sums of some rows: a line for each, or two where the terminal is too narrow for one."""

    def __init__(self, rows: Matrix) -> None:
        self.numbers = [result for row in rows for result in row]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        for result in self.numbers:
            before, after = _sides(result)
            if before.cell_len + after.cell_len <= options.max_width:
                yield before + after
            else:
                grid = Table.grid()
                name = Text(result.name, style(result.role))
                grid.add_row(name, before[name.cell_len :])
                grid.add_row("", after)
                yield grid


def shown_rows(rows: Matrix) -> Matrix:
    """The rows whose sums are written out: all of a few words, else those of the last one."""
    return rows if len(rows) <= FEW else rows[-1:]


def table(
    names: Sequence[str],
    columns: Sequence[str],
    rows: Matrix,
    colour: str = "",
    *,
    extra: tuple[str, Vector] | None = None,
    corner: str = "",
    bare: bool = False,
) -> Table:
    """A matrix with a name for each row and column, and perhaps a number more for each row."""
    drawn = Table(
        box=None if bare else box.SIMPLE_HEAD,
        show_header=not bare,
        padding=(0, 0, 0, 1),
        pad_edge=False,
        show_edge=False,
    )
    drawn.add_column(Text(corner, "dim"), no_wrap=True)
    for name in columns:
        drawn.add_column(Text(name, colour), justify="right", no_wrap=True)
    if extra:
        drawn.add_column(Text(extra[0], "dim"), justify="right", no_wrap=True)
    for place, (name, row) in enumerate(zip(names, rows, strict=True)):
        cells = [Text(number(cell.value), colour) for cell in row]
        if extra:
            cells.append(Text(number(extra[1][place].value), "dim"))
        drawn.add_row(Text(name), *cells)
    return drawn


def pairs(
    lesson: Lesson, rows: Matrix, extra: tuple[str, Vector] | None = None, colour: str = "", corner: str = ""
) -> Table:
    """A matrix with a row for each query and a column for each key."""
    corner = corner or ("query ↓ key →" if len(rows) <= FEW else "q ↓ k →")
    return table(lesson.labels, lesson.labels, rows, colour, extra=extra, corner=corner)


class Beside:
    """Several drawings in one line where it is wide enough, else below each other."""

    def __init__(self, *drawn: RenderableType) -> None:
        self.drawn = drawn

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        gap = 4
        widths = [Measurement.get(console, options, part).maximum for part in self.drawn]
        if sum(widths) + gap * (len(widths) - 1) <= options.max_width:
            line = Table.grid(padding=(0, gap, 0, 0))
            line.add_row(*self.drawn)
            yield line
            return
        for number, part in enumerate(self.drawn):
            if number:
                yield Text("")
            yield part


def maps(head: WorkedHead) -> RenderableType:
    """The three maps of a head."""
    return Beside(
        named("W_q", head.w_q, style(Role.QUERY)),
        named("W_k", head.w_k, style(Role.KEY)),
        named("W_v", head.w_v, style(Role.VALUE)),
    )


def named(name: str, rows: Matrix, colour: str) -> RenderableType:
    """A matrix with its name."""
    names = [name] + [""] * (len(rows) - 1)
    return table(names, ("",) * len(rows[0]), rows, colour, bare=True)


def vectors(lesson: Lesson, head: WorkedHead) -> RenderableType:
    """The queries, keys and values of a head."""
    drawn = (
        table(lesson.labels, (f"{letter}₁", f"{letter}₂"), rows, style(role))
        for letter, role, rows in (("q", Role.QUERY, head.q), ("k", Role.KEY, head.k), ("v", Role.VALUE, head.v))
    )
    return Beside(*drawn)


def _factor(factor: Number, decimals: int, first: bool = False) -> str:
    text = number(factor.value, decimals)
    return text if first or not text.startswith("−") else f"({text})"
