"""`regard bench`: finds the benchmarks, which are a distribution of their own, and runs them."""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from regard.cli.command import Subparsers
from regard.errors import OptionError

PACKAGE = "regard_benchmarks"
CHECKOUT = Path(__file__).parents[3] / "benchmarks"
"""Where a checkout has the benchmarks; in an installation nothing is there."""


def add_parser(commands: Subparsers) -> None:
    """Add `regard bench`, whose options are the benchmarks' own."""
    parser = commands.add_parser("bench", help="measure speed and memory here", add_help=False)
    parser.set_defaults(run=main)


def main(options: argparse.Namespace, console: Console) -> None:
    """Run the benchmarks with the rest of the command line."""
    run_benchmarks(options.rest)


def run_benchmarks(arguments: Sequence[str]) -> None:
    """Find the benchmarks and run them.

    Raises:
        OptionError: The benchmarks are neither installed nor in a checkout beside this file.
    """
    if importlib.util.find_spec(PACKAGE) is None:
        if not (CHECKOUT / PACKAGE).is_dir():
            raise OptionError(
                "bench",
                "an installation without benchmarks",
                "an installation with the extra bench, or a checkout",
                'Install it: pip install "regard[bench]"',
            )
        sys.path.append(str(CHECKOUT))
    from regard_benchmarks.bench import main as run  # found on the path only now

    run(arguments)
