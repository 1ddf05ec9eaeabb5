"""What `regard bench` prints: the same cells as tables of the terminal or as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from regard_benchmarks.measure import CaseResult
from regard_benchmarks.section_tables import SECTION_TABLES, Table, goals_table
from regard_benchmarks.sections import TITLES

LEGEND = (
    "Time: median ± half the distance of the quartiles, or 'once' where a single turn was all there was time "
    "for: such figures are less sure. × after a time is the first method's time ÷ this "
    "method's, above 1 is faster, unless the head says otherwise. GFLOP/s counts 4·b·h·n²·d for a forward "
    "pass, half of it under a causal mask, and a backward pass as 2.5 forward passes. Four statistics: "
    "entropy, 8 strongest keys, mean distance, weight on 16 spans; six: also the weight received and a map of "
    "512×512. SDPA computes none."
)


def sections(machine: Mapping[str, str], results: Sequence[CaseResult]) -> list[Table]:
    """Every table of every section that was measured; after a run for the goals, the table of goals."""
    tables: list[Table] = []
    for section, title in TITLES.items():
        measured = [result for result in results if result.case.section == section and result.timings]
        if measured:
            tables += SECTION_TABLES[section](measured, title)
    return tables + (goals_table(results) if machine["run"] in ("goals", "all") else [])


def terminal(console: Console, machine: Mapping[str, str], results: Sequence[CaseResult]) -> None:
    """Print the tables."""
    for line in headlines(machine):
        console.print(Text(line))
    for title, heads, cells in sections(machine, results):
        table = RichTable(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 0, 0, 1), show_edge=False)
        for column, head in enumerate(heads):
            table.add_column(Text(head), justify="right" if column else "left", overflow="fold")
        for row in cells:
            table.add_row(*(Text(cell) for cell in row))
        console.print()
        console.print(Text(title, "bold"))
        console.print(table)
    console.print()
    for reason in reasons(results):
        console.print(Text(reason, "dim"))
    console.print(Text(LEGEND, "dim"))
    for line in headlines(machine)[1:]:
        console.print(Text(line, "bold"))  # last, where a user who pressed Ctrl-C reads


def markdown(machine: Mapping[str, str], results: Sequence[CaseResult]) -> str:
    """The tables as Markdown."""
    lines = [part for line in headlines(machine) for part in (line, "")]
    for title, heads, cells in sections(machine, results):
        lines += [f"**{title}**", "", _line(heads), _line(["---", *["---:"] * (len(heads) - 1)])]
        lines += [_line(row) for row in cells] + [""]
    return "\n".join([*lines, *(f"- {reason}" for reason in reasons(results)), "", LEGEND])


def headlines(machine: Mapping[str, str]) -> list[str]:
    """The machine, and whether Ctrl-C ended the run early."""
    early = machine.get("interrupted")
    return [machine_line(machine), *([f"Interrupted {early}."] if early else [])]


def machine_line(machine: Mapping[str, str]) -> str:
    """The machine in one line, with a warning where other programs were running."""
    m, threads = machine, float(machine["threads"].split()[0])
    # Our own threads are in the load after, which is a mean over the last minute.
    busy = _load(m["load before"]) > 0.5 * threads or _load(m["load after"]) > 1.25 * threads
    return (
        f"{m['processor']}, {m['threads']} threads, {m['kernels']}, torch {m['torch']}, "
        f"Python {m['python']}, {m['system']}, {m['date']}; load before: {m['load before']}, after: "
        + m["load after"]
        + (" (busy: others ran here too, so read these figures with care)" if busy else "")
    )


def _load(text: str) -> float:
    return 0.0 if text == "unknown" else float(text)


def reasons(results: Sequence[CaseResult]) -> list[str]:
    """Why some cells are empty: each reason once, with its cases."""
    cases_of: dict[tuple[str, str], list[str]] = {}
    for result in results:
        for name, why in result.reasons.items():
            cases_of.setdefault((name, why), []).append(result.case.name)
    return [
        f"{name} {_verb(why)} ({cases[0]}{f' and {len(cases) - 1} more' if cases[1:] else ''})"
        for (name, why), cases in cases_of.items()
    ]


def _verb(why: str) -> str:
    """A reason as the rest of a sentence that begins with the method's name."""
    first = why.split()[0]
    return why if first in _VERBS else f"did not run: {why}"


_VERBS = ("never", "has", "takes", "needs", "is", "evaluates", "compiles", "would", "was")


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
