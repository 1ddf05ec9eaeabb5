"""`regard learn`: a worked example of self-attention, on a few words or on a weight of a recording."""

from __future__ import annotations

import argparse

from rich.console import Console

from regard import learn
from regard.cli.command import Subparsers
from regard.errors import OptionError
from regard.learn.weight import weight_steps
from regard.recording import Recording


def add_parser(commands: Subparsers) -> None:
    """Add the options of `regard learn`."""
    parser = commands.add_parser(
        "learn",
        help="a worked example with every number",
        description="Self-attention worked by hand: every number from x to the output, of three words or of "
        "a weight of a recording.",
    )
    parser.add_argument(
        "recording", metavar="RECORDING", nargs="?", help="what regard record wrote: the lesson on one of its weights"
    )
    default = {"layer": "", "head": "", "query": "; by default the strongest", "key": "; likewise"}
    for name, more in default.items():
        parser.add_argument(f"--{name}", type=int, metavar="N", help=f"its {name}, from 0{more}")
    parser.add_argument("--text", metavar="WORDS", help="words of your own, instead of the example's")
    parser.add_argument("--step", action="store_true", help="wait for Enter after each step")
    parser.set_defaults(run=main)


def main(options: argparse.Namespace, console: Console) -> None:
    """Print the lesson."""
    indices = {name: getattr(options, name) for name in ("layer", "head", "query", "key")}
    indices = {name: index for name, index in indices.items() if index is not None}
    if options.recording is None:
        if indices:
            raise OptionError(
                f"--{next(iter(indices))}",
                "no recording",
                "a recording whose weight it names",
                "regard record FILE -o run.safetensors makes one.",
            )
        learn.main(options.text, options.step, console)
        return
    if options.text is not None:
        raise OptionError("--text", "words and a recording", "one of them", "Leave one out.")
    learn.print_steps(weight_steps(Recording.open(options.recording), **indices), options.step, console)
