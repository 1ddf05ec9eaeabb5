"""`regard learn`: self-attention worked through in the terminal, every number from embedding to output.

All numbers come from `regard.analysis.worked_example`; this package only chooses sentences and draws.
"""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Sequence

from rich.console import Console
from rich.padding import Padding
from rich.rule import Rule
from rich.text import Text

from regard.analysis.worked_example import TEXT, Lesson
from regard.learn.html import Shown
from regard.learn.steps import Step, steps

WIDEST = 100
"""Columns beyond which lines get hard to read."""

PATIENCE = 2.0
"""Seconds to wait for a line where standard input is not a terminal and stays silent."""


def main(text: str | None, step: bool, console: Console) -> None:
    """Print the lesson on a few words.

    Args:
        text: Two to six words of one's own, or None for the words that the numbers were chosen for.
        step: Wait for Enter after each step; q, or the end of input, ends the lesson.
        console: Where to print.

    Raises:
        OptionError: too few or too many words.

    >>> import io
    >>> printed = io.StringIO()
    >>> main(None, False, Console(file=printed, width=80))
    >>> "q₁(bank) = 0.5×1 + 0.5×1 = 0.5 + 0.5 = 1" in printed.getvalue()
    True
    """
    print_steps(steps(Lesson.of(TEXT if text is None else text)), step, console)


def print_steps(steps: Sequence[Step], step: bool, console: Console) -> None:
    """Print the screens of a lesson, all at once or, with `step`, one at a time."""
    width = min(console.width, WIDEST)
    for number, screen in enumerate(steps, 1):
        console.print(Rule(Text(f"{number}  {screen.title}", "bold"), align="left", style="dim"), width=width)
        console.print()
        for drawn in screen.drawn:
            console.print(Padding(drawn, (0, 0, 1, 2)), width=width)
        if step and number < len(steps) and not _onward(console, number, len(steps)):
            return


def show(text: str | None = None) -> Shown:
    """The lesson in a notebook, every number with what it was computed from.

    Args:
        text: Two to six words of one's own, or None for the words that the numbers were chosen for.

    Raises:
        OptionError: too few or too many words.

    >>> "q₁(bank)" in show("the river bank")._repr_html_()
    True
    """
    return Shown(Lesson.of(TEXT if text is None else text))


def _onward(console: Console, number: int, last: int) -> bool:
    """Whether the reader wants the next step."""
    console.print(Text(f"{number} of {last} · Enter: next · q: leave ", "dim"), end="")
    sys.stdout.flush()
    try:
        answer = _line()
    except (EOFError, KeyboardInterrupt):
        console.print()
        return False
    if not sys.stdin.isatty():
        console.print()  # in a terminal, Enter itself ends the line
    return not answer.strip().lower().startswith("q")


def _line() -> str:
    """The next line of standard input; an empty one where it is not a terminal and stays silent."""
    if sys.stdin.isatty():
        return input()
    # A pipe: byte by byte, so that what is left in it can still be waited for.
    written, source = b"", sys.stdin.fileno()
    while not written.endswith(b"\n"):
        if not select.select([source], [], [], PATIENCE)[0]:
            break
        byte = os.read(source, 1)
        if not byte:
            raise EOFError
        written += byte
    return written.decode(errors="replace")
