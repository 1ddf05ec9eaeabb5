"""What `regard bench` prints: the same cells as a table of the terminal or as Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from regard.lab.cases import Arm, Case, Row

Section = tuple[str, list[str], list[list[str]]]
"""A title, column heads and rows of cells."""

LEGEND = (
    "Time: median ± half the distance of the quartiles; × is time ÷ the first column's, so that below 1 is "
    "faster. Statistics: entropy, 8 strongest keys, mean distance, weight received."
)


def sections(rows: Sequence[Row], arms: Sequence[Arm]) -> list[Section]:
    """The tables: one for each dtype and pass, then memory."""
    found: list[Section] = []
    for title in dict.fromkeys(_title(row) for row in rows):
        mine = [row for row in rows if _title(row) == title]
        names = [arm.name for arm in arms if any(arm.name in row.timings for row in mine)]
        cells = [[row.case.short, *(_time(row, name, names[0]) for name in names)] for row in mine]
        found.append((title, ["case", *names], cells))
    weighed = [row for row in rows if row.extra_bytes]
    if weighed:
        names = [arm.name for arm in arms if any(arm.name in row.extra_bytes for row in weighed)]
        cells = [
            [f"{row.case.short}, {_passes(row.case)}", *(_size(row, name) for name in names)]
            for row in weighed
        ]
        found.append(("extra peak memory", ["case", *names], cells))
    return found


def summary(rows: Sequence[Row], arms: Sequence[Arm]) -> list[str]:
    """In one sentence for each arm of regard's own, how it stands to the first arm and to eager."""
    said: list[str] = []
    for arm in arms:
        if not arm.name.startswith("regard"):
            continue
        groups = (
            ("plain attention", "SDPA", [row for row in rows if not row.case.special]),
            ("dropout, a learned bias or dv ≠ d", "SDPA",
             [row for row in rows if row.case.special and "SDPA" in row.timings]),
            ("attention with statistics", "eager",
             [row for row in rows if row.case.special and "SDPA" not in row.timings]),
        )  # fmt: skip
        parts = [
            f"{_range(ratios)} the time of {other} for {what}"
            for what, other, some in groups
            if (ratios := list(_ratios(some, arm.name, other)))
        ]
        if parts:
            said.append(f"{arm.name} takes " + "; ".join(parts) + ".")
    return said


def terminal(
    console: Console, machine: Mapping[str, str], rows: Sequence[Row], arms: Sequence[Arm]
) -> None:
    """Print the tables."""
    console.print(Text(_machine(machine)))
    for title, heads, cells in sections(rows, arms):
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 0, 0, 1), show_edge=False)
        for place, head in enumerate(heads):
            table.add_column(Text(head), justify="right" if place else "left", overflow="fold")
        for row in cells:
            table.add_row(*(Text(cell) for cell in row))
        console.print()
        console.print(Text(title, "bold"))
        console.print(table)
    console.print()
    for sentence in summary(rows, arms):
        console.print(Text(sentence))
    for reason in _reasons(rows):
        console.print(Text(reason, "dim"))
    console.print(Text(LEGEND, "dim"))


def markdown(machine: Mapping[str, str], rows: Sequence[Row], arms: Sequence[Arm]) -> str:
    """The same as Markdown."""
    lines = [_machine(machine), ""]
    for title, heads, cells in sections(rows, arms):
        lines += [f"**{title}**", "", _line(heads), _line(["---", *["---:"] * (len(heads) - 1)])]
        lines += [_line(row) for row in cells] + [""]
    return "\n".join([*lines, *summary(rows, arms), *_reasons(rows), "", LEGEND])


def _machine(machine: Mapping[str, str]) -> str:
    m = machine
    load, threads = m["load before"], m["threads"].split()[0]
    busy = load != "unknown" and float(load) > 0.5 * float(threads)
    return (
        f"{m['processor']}, {m['threads']} threads, torch {m['torch']}, Python {m['python']}, "
        f"{m['system']}, {m['date']}; load before: {load}"
        + (" (busy: others ran here too, so read these figures with care)" if busy else "")
    )


def _title(row: Row) -> str:
    return f"{row.case.passes}, {row.case.kind}"


def _passes(case: Case) -> str:
    return "both passes" if case.backward else "forward"


def _time(row: Row, name: str, base: str) -> str:
    timing = row.timings.get(name)
    if timing is None:
        return "—"
    text = f"{_seconds(timing.seconds)} ±{timing.spread:.0%}"
    first = next(iter(row.timings)) == name
    return text if first and name == base else f"{text}  {timing.ratio:.2f}×"


def _seconds(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1e3 * seconds:.3g} ms"


def _size(row: Row, name: str) -> str:
    size = row.extra_bytes.get(name)
    return "—" if size is None else f"{size / 2**20:,.0f} MiB"


def _ratios(rows: Iterable[Row], name: str, other: str) -> Iterable[float]:
    for row in rows:
        if name in row.timings and next(iter(row.timings)) == other:
            yield row.timings[name].ratio


def _range(ratios: Sequence[float]) -> str:
    low, middle, high = min(ratios), statistics.median(ratios), max(ratios)
    return f"{middle:.2f}×" if len(ratios) == 1 else f"{middle:.2f}× ({low:.2f} to {high:.2f})"


def _reasons(rows: Sequence[Row]) -> list[str]:
    """Why some cells are empty, each reason once."""
    found = dict.fromkeys(
        f"— {name}: {why}" + ("" if why.startswith("never") else f" ({row.case.name})")
        for row in rows
        for name, why in row.reasons.items()
    )
    return list(found)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
