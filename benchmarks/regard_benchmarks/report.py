"""What `regard bench` prints: the same cells as tables of the terminal or as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from regard_benchmarks.measure import Row
from regard_benchmarks.section_tables import VIEWS, Table, goals
from regard_benchmarks.sections import TITLES

LEGEND = (
    "Time: median ± half the distance of the quartiles, or 'once' where a single turn was all there was time "
    "for: such figures are less sure. × after a time is the first arm's time ÷ this "
    "arm's, above 1 is faster, unless the head says otherwise. GFLOP/s counts 4·b·h·n²·d for a forward "
    "pass, half of it under a causal mask, and a backward pass as 2.5 forward passes. Four statistics: "
    "entropy, 8 strongest keys, mean distance, weight on 16 spans; six: the weight received and a map of "
    "512×512 too. SDPA sees none."
)


def sections(machine: Mapping[str, str], rows: Sequence[Row]) -> list[Table]:
    """Every table of every section that was measured; after a run for the goals, how they were met."""
    found: list[Table] = []
    for section, title in TITLES.items():
        mine = [row for row in rows if row.case.section == section and row.timings]
        if mine:
            found += VIEWS[section](mine, title)
    return found + (goals(rows) if machine["run"] in ("goals", "all") else [])


def terminal(console: Console, machine: Mapping[str, str], rows: Sequence[Row]) -> None:
    """Print the tables."""
    for line in headlines(machine):
        console.print(Text(line))
    for title, heads, cells in sections(machine, rows):
        table = RichTable(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 0, 0, 1), show_edge=False)
        for place, head in enumerate(heads):
            table.add_column(Text(head), justify="right" if place else "left", overflow="fold")
        for row in cells:
            table.add_row(*(Text(cell) for cell in row))
        console.print()
        console.print(Text(title, "bold"))
        console.print(table)
    console.print()
    for reason in reasons(rows):
        console.print(Text(reason, "dim"))
    console.print(Text(LEGEND, "dim"))
    for line in headlines(machine)[1:]:
        console.print(Text(line, "bold"))  # where who pressed Ctrl-C looks


def markdown(machine: Mapping[str, str], rows: Sequence[Row]) -> str:
    """The same as Markdown."""
    lines = [part for line in headlines(machine) for part in (line, "")]
    for title, heads, cells in sections(machine, rows):
        lines += [f"**{title}**", "", _line(heads), _line(["---", *["---:"] * (len(heads) - 1)])]
        lines += [_line(row) for row in cells] + [""]
    return "\n".join([*lines, *(f"- {reason}" for reason in reasons(rows)), "", LEGEND])


def headlines(machine: Mapping[str, str]) -> list[str]:
    """The machine, and whether Ctrl-C ended the run early."""
    early = machine.get("interrupted")
    return [described(machine), *([f"Interrupted {early}."] if early else [])]


def described(machine: Mapping[str, str]) -> str:
    """The machine in one line, and a warning where others were at work on it."""
    m, threads = machine, float(machine["threads"].split()[0])
    # Our own threads are in the load after, which is a mean over the last minute.
    busy = _load(m["load before"]) > 0.5 * threads or _load(m["load after"]) > 1.25 * threads
    return (
        f"{m['processor']}, {m['threads']} threads, {m['kernels']}, torch {m['torch']}, "
        f"Python {m['python']}, {m['system']}, {m['date']}; load before: {m['load before']}, after: "
        + m["load after"]
        + (" (busy: others ran here too, so read these figures with care)" if busy else "")
    )


def _load(said: str) -> float:
    return 0.0 if said == "unknown" else float(said)


def reasons(rows: Sequence[Row]) -> list[str]:
    """Why some cells are empty: each reason once, with the cases that it holds for."""
    found: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        for name, why in row.reasons.items():
            found.setdefault((name, why), []).append(row.case.name)
    return [
        f"{name} {_verb(why)} ({cases[0]}{f' and {len(cases) - 1} more' if cases[1:] else ''})"
        for (name, why), cases in found.items()
    ]


def _verb(why: str) -> str:
    """A reason as the rest of a sentence that begins with the arm's name."""
    first = why.split()[0]
    return why if first in _VERBS else f"did not run: {why}"


_VERBS = ("never", "has", "takes", "needs", "is", "looks", "compiles", "would", "was")


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
