"""`regard bench`: speed and memory here, beside PyTorch's own attention and the plain formula.

The arms of a case run in one process and take turns, so that a slow moment of the machine hits them alike.
Times are medians, with half the distance of the quartiles as spread; a ratio is the median of the ratios
within a turn. Extra memory is how far the peak resident set grows in a fresh process that runs the case.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress

from regard.errors import OptionError
from regard.lab.cases import ARMS, CASES, Arm, Case, Inputs, Row, Timing
from regard.lab.tables import markdown, terminal

SECONDS, QUICK_SECONDS = 3.0, 1.0
"""Time for the turns of one case, about."""

LEAST_TURNS, MOST_TURNS = 3, 40


def main(arguments: Sequence[str] | None = None, console: Console | None = None) -> None:
    """Measure and print.

    Args:
        arguments: The command line after `regard bench`; None takes the process's own.
        console: Where to print the table.
    """
    options = _parser().parse_args(arguments)
    if options.threads is not None:
        if options.threads < 1:
            raise OptionError("--threads", options.threads, "1 or more",
                              "Leave it out for PyTorch's own choice.")  # fmt: skip
        torch.set_num_threads(options.threads)
    if options.child is not None:
        print(_grown(*options.child))
        return
    if options.json is not None and not options.json.parent.is_dir():
        raise OptionError("--json", str(options.json), "a path in a directory that exists",
                          f"Make {str(options.json.parent)!r} first.")  # fmt: skip
    name = "quick" if options.quick else "default"
    cases = [case for case in CASES if options.all or name in case.sets]
    machine = described()
    seconds = QUICK_SECONDS if options.quick else SECONDS
    rows = measured(cases, ARMS, seconds, memory=not options.quick)
    if options.json is not None:
        write(options.json, machine, rows)
    if options.markdown:
        print(markdown(machine, rows, ARMS))
    else:
        terminal(console or Console(highlight=False), machine, rows, ARMS)


def described() -> dict[str, str]:
    """The machine and the software: what a figure means nothing without.

    >>> described()["torch"] == torch.__version__
    True
    """
    load = f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"
    return {
        "processor": _processor(),
        "threads": f"{torch.get_num_threads()} of {os.cpu_count()}",
        "load before": load,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": platform.platform(terse=True),
        "date": time.strftime("%Y-%m-%d"),
    }


def _processor() -> str:
    # Not from regard.doctor: it stands in the same row.
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


def measured(
    cases: Sequence[Case], arms: Sequence[Arm], seconds: float, *, memory: bool
) -> list[Row]:
    """Every case through every arm that can run it, with a progress bar on standard error."""
    rows: list[Row] = []
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=len(cases))
        for case in cases:
            progress.update(task, description=case.name)
            row = Row(case, reasons={a.name: why for a in arms if (why := a.why_not(case))})
            able = [arm for arm in arms if arm.name not in row.reasons]
            row.timings.update(timed(case, able, seconds))
            if memory and "memory" in case.sets:
                row.extra_bytes.update(
                    {arm.name: grown for arm in able if (grown := _grown_apart(case, arm))}
                )
            rows.append(row)
            progress.advance(task)
    return rows


def timed(
    case: Case,
    arms: Sequence[Arm],
    seconds: float,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Timing]:
    """The arms in turns, each turn in another order, for about so many seconds.

    >>> timings = timed(Case((1, 1, 16, 8)), ARMS, seconds=0.01)
    >>> [*timings], timings["SDPA"].ratio
    (['SDPA', 'eager', 'regard chunked'], 1.0)
    """
    inputs = Inputs.of(case)
    for arm in arms:
        arm.run(inputs)  # once for nothing: caches, threads, lazy initialisation
    took: dict[str, list[float]] = {arm.name: [] for arm in arms}
    end = clock() + seconds
    turn = 0
    while turn < LEAST_TURNS or (turn < MOST_TURNS and clock() < end):
        first = turn % max(len(arms), 1)
        for arm in (*arms[first:], *arms[:first]):
            start = clock()
            arm.run(inputs)
            took[arm.name].append(clock() - start)
        turn += 1
    base = next(iter(took.values()), [])
    return {name: _summary(times, base) for name, times in took.items()}


def _summary(times: Sequence[float], base: Sequence[float]) -> Timing:
    low, middle, high = statistics.quantiles(times, n=4, method="inclusive")
    ratio = statistics.median(mine / theirs for mine, theirs in zip(times, base, strict=True))
    return Timing(middle, (high - low) / 2 / middle, ratio, len(times))


def _grown_apart(case: Case, arm: Arm) -> int | None:
    """Bytes by which a fresh process grows, or None where it does not come back."""
    asked = [sys.executable, "-m", "regard.lab.bench", "--child", case.name, arm.name,
             "--threads", str(torch.get_num_threads())]  # fmt: skip
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    return int(done.stdout) if done.returncode == 0 else None


def _grown(case_name: str, arm_name: str) -> int:
    """In the fresh process: the growth of its peak from just before the case to after it."""
    case = next(case for case in CASES if case.name == case_name)
    arm = next(arm for arm in ARMS if arm.name == arm_name)
    b, h, _, d = case.shape
    small = Case((b, h, 64, d), case.mask, case.dtype, case.passes, case.special)
    arm.run(Inputs.of(small))  # libraries load their parts on first use; that is not the case's own
    inputs = Inputs.of(case)
    before = _peak()
    arm.run(inputs)
    return _peak() - before


def _peak() -> int:
    """The greatest resident set that this process has had, in bytes."""
    status = Path("/proc/self/status")
    if status.exists():
        # Not ru_maxrss here: on Linux it begins at the peak of the process that started this one.
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
        1 if sys.platform == "darwin" else 1024
    )


def write(path: Path, machine: dict[str, str], rows: Sequence[Row]) -> None:
    """All figures as JSON: written beside and renamed, so that no reader sees half a file."""
    table: list[dict[str, Any]] = [
        {
            "case": row.case.name,
            "timings": {name: asdict(timing) for name, timing in row.timings.items()},
            "extra_bytes": row.extra_bytes,
            "reasons": row.reasons,
        }
        for row in rows
    ]
    text = json.dumps({"machine": machine, "rows": table}, indent=2, ensure_ascii=False)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_text(text + "\n", encoding="utf-8")
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="regard bench",
        description="Speed and memory on this machine: regard beside PyTorch's "
        "scaled_dot_product_attention (SDPA) and the plain formula (eager).",
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--quick", action="store_true", help="a few cases, no memory: seconds")
    which.add_argument("--all", action="store_true", help="every case: many minutes")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write all figures here too")
    parser.add_argument("--markdown", action="store_true", help="print the tables as Markdown")
    parser.add_argument("--threads", type=int, metavar="N", help="threads of PyTorch")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    main()
