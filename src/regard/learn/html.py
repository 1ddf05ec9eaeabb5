"""The lesson in a notebook: the terminal's own steps, each to be opened, and how every number was computed."""

from __future__ import annotations

import io
from collections.abc import Iterator

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from regard.analysis.worked_example import Lesson, Matrix
from regard.display import repr_html
from regard.display.repr_html import Html
from regard.learn.drawing import Beside, Equations, equation, working
from regard.learn.steps import steps

_PLAIN = Console(file=io.StringIO(), color_system="truecolor", width=200)
_LINE = "margin:.2em 0"


class Shown:
    """A lesson in a notebook."""

    def __init__(self, lesson: Lesson) -> None:
        self.lesson = lesson

    def __repr__(self) -> str:
        return f"the lesson on {' '.join(self.lesson.words)!r}: shown by notebooks"

    def _repr_html_(self) -> str:
        """Every step, the first one open."""
        parts = [
            f"<details{'' if number > 1 else ' open'}><summary>{number}  {repr_html.safe(step.title)}</summary>"
            f'<div style="margin:.2em 1em .8em">{"".join(map(_drawn, step.drawn))}{_working(step.numbers)}</div>'
            "</details>"
            for number, step in enumerate(steps(self.lesson), 1)
        ]
        return repr_html.section(f"Self-attention on “{' '.join(self.lesson.words)}”", *parts)


def _working(numbers: Matrix) -> str:
    """Each number of a step, and what it was computed from."""
    unique = list(dict.fromkeys(number for row in numbers for number in row))
    if not unique:
        return ""
    lines = "".join(_line(working(number)) for number in unique)
    return f"<details><summary>each of the {len(unique)} numbers, and what it was made of</summary>{lines}</details>"


def _drawn(drawn: RenderableType) -> str:
    """What the terminal draws, as markup."""
    if isinstance(drawn, Text):
        return _line(drawn)
    if isinstance(drawn, Equations):
        return "".join(_line(equation(number)) for number in drawn.numbers)
    if isinstance(drawn, Group):
        return "".join(map(_drawn, drawn.renderables))
    if isinstance(drawn, Beside):
        cells = "".join(f"<div>{_drawn(part)}</div>" for part in drawn.drawn)
        return f'<div style="display:flex;flex-wrap:wrap;gap:0 2em">{cells}</div>'
    if isinstance(drawn, Table):
        return _table(drawn)
    return _line(Text(str(drawn)))


def _table(drawn: Table) -> str:
    columns = drawn.columns
    head = [_inline(column.header) for column in columns] if drawn.show_header else []
    cells = zip(*(list(column.cells) for column in columns), strict=True)
    return repr_html.table(head, ([_inline(cell) for cell in row] for row in cells))


def _line(text: Text) -> str:
    return f'<p style="{_LINE}">{_inline(text)}</p>'


def _inline(text: RenderableType) -> Html:
    """A text with the colours of its roles."""
    return Html("".join(_spans(text if isinstance(text, Text) else Text(str(text)))))


def _spans(text: Text) -> Iterator[str]:
    for text_of_span, style, _ in text.render(_PLAIN):
        shown = repr_html.safe(text_of_span)
        css = list[str]()
        if style is not None and style.color is not None and style.color.triplet is not None:
            css.append(f"color:{style.color.triplet.hex}")
        if style is not None and style.bold:
            css.append("font-weight:bold")
        if style is not None and style.dim:
            css.append("opacity:.75")
        yield f'<span style="{";".join(css)}">{shown}</span>' if css else shown
