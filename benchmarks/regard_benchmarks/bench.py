"""`regard bench`: speed and memory on this machine, compared with PyTorch's own attention and the plain formula.

The methods of a case run in one process and take turns, so that a slow moment of the machine affects all of them.
Times are medians, with half the distance of the quartiles as spread, or of a single turn ("once") where calls
are long; a ratio is the median of the ratios within a turn. Extra memory is the growth of the
peak resident set in a fresh process that runs the case. Ctrl-C ends a run early and prints what was measured.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console

from regard._native import core
from regard.backends import native
from regard.errors import OptionError
from regard.system.atomic_files import write_text
from regard.system.hardware import processor
from regard_benchmarks import models
from regard_benchmarks.chart import speed_chart
from regard_benchmarks.json_files import Machine, read_results, write_results
from regard_benchmarks.measure import CaseResult, measure_cases, measure_growth
from regard_benchmarks.report import markdown, terminal
from regard_benchmarks.sections import CASES, TITLES, select_cases

SECONDS = {"quick": 0.6, "default": 1.5, "goals": 2.0, "all": 4.0, "models": 8.0}
"""About how many seconds the turns of one case take in each kind of run. One SDPA backward pass may take longer."""


def main(arguments: Sequence[str] | None = None, console: Console | None = None) -> None:
    """Measure and print.

    Args:
        arguments: The command line after `regard bench`; None takes the process's own.
        console: Where to print the table.

    Raises:
        KeyboardInterrupt: Ctrl-C ended the measuring; what was measured has been printed and written.
    """
    options = _parser().parse_args(arguments)
    if options.threads is not None:
        if options.threads < 1:
            raise OptionError("--threads", options.threads, "1 or more", "Leave it out for PyTorch's own choice.")
        torch.set_num_threads(options.threads)
    if options.child is not None:
        print(*measure_growth(*options.child))
        return
    if options.models:
        machine = describe_machine("models")
        console = console or Console(highlight=False)
        console.print(", ".join(f"{name} {value}" for name, value in machine.items()))
        models.main(SECONDS["models"], console, options.markdown, options.only)
        return
    for name in ("json", "picture"):
        path = getattr(options, name)
        if path is not None and not path.parent.is_dir():
            raise OptionError(
                f"--{name}", str(path), "a path in a directory that exists", f"Make {str(path.parent)!r} first."
            )
    machine, results = _results(options)
    if options.json is not None:
        write_results(options.json, machine, results)
    if options.picture is not None:
        write_text(speed_chart(machine, results), options.picture)
    if options.markdown:
        print(markdown(machine, results))
    else:
        terminal(console or Console(highlight=False), machine, results)
    if options.figures is None and "interrupted" in machine:
        raise KeyboardInterrupt


def _results(options: argparse.Namespace) -> tuple[Machine, list[CaseResult]]:
    if options.figures is not None:
        machine, results = read_results(options.figures)
        selected = select_cases(tuple(result.case for result in results), "all", options.only)
        return machine, [result for result in results if result.case in selected]
    run = next((name for name in ("quick", "goals", "all") if getattr(options, name)), "default")
    cases = select_cases(CASES, run, options.only)
    if not cases:
        raise OptionError(
            "--only",
            options.only,
            f"words of a case's name in the {run} run",
            f"Names begin with {', '.join(TITLES)}; --all has every case.",
        )
    machine = describe_machine(run)
    results = measure_cases(cases, run, SECONDS[run])
    machine["load after"] = _load()
    if len(results) < len(cases):
        machine["interrupted"] = f"after {len(results)} of {len(cases)} cases"
    return machine, results


def describe_machine(run: str = "default") -> Machine:
    """The machine and the software that the figures were measured with.

    >>> describe_machine()["torch"] == torch.__version__
    True
    """
    return {
        "processor": processor(),
        "threads": f"{torch.get_num_threads()} of {os.cpu_count()}",
        "kernels": "no native kernels" if native.available() else f"{core.isa()} kernels",
        "load before": _load(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": platform.platform(terse=True),
        "date": time.strftime("%Y-%m-%d"),
        "run": run,
    }


def _load() -> str:
    return f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="regard bench",
        description="Speed and memory on this machine: regard compared with PyTorch's "
        "scaled_dot_product_attention (SDPA), FlexAttention and the plain formula (eager).",
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--quick", action="store_true", help="a few cases, no memory: seconds")
    which.add_argument("--goals", action="store_true", help="native and SDPA, on all cases of the goals: minutes")
    which.add_argument("--all", action="store_true", help="every case and method: an hour and more")
    which.add_argument(
        "--models", action="store_true", help="whole models of transformers, and the embedded one: minutes"
    )
    which.add_argument(
        "--from", dest="figures", type=Path, metavar="PATH", help="measure nothing: show what --json wrote"
    )
    parser.add_argument(
        "--only", default="", metavar="TEXT", help="cases whose name has all these words, such as 'decode bfloat16'"
    )
    parser.add_argument("--json", type=Path, metavar="PATH", help="write all figures here too")
    parser.add_argument("--picture", type=Path, metavar="PATH.svg", help="draw the speeds here too")
    parser.add_argument("--markdown", action="store_true", help="print the tables as Markdown")
    parser.add_argument("--threads", type=int, metavar="N", help="threads of PyTorch")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    main()
