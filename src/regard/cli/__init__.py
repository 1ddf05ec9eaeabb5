"""The command `regard`: one module a command, each of which parses its options, calls the library and prints."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from rich.console import Console

from regard.cli import attribute, bench, doctor, explore, learn, look, record
from regard.cli.command import Command
from regard.errors import RegardError

FAULT, INTERRUPTED = 2, 130


COMMANDS: tuple[Command, ...] = (look, attribute, record, learn, explore, bench, doctor)
"""In the order in which the help lists them."""


def parser() -> argparse.ArgumentParser:
    """Every option of every command."""
    whole = argparse.ArgumentParser(
        prog="regard", description="Self-attention you can see into: exact, at any length, at full speed."
    )
    whole.add_argument("--version", action="store_true", help="print the version and end")
    commands = whole.add_subparsers(dest="command", metavar="COMMAND")
    for command in COMMANDS:
        command.add_parser(commands)
    return whole


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code: 0, 2 for what the caller can mend, 130 for Ctrl-C."""
    whole = parser()
    options, rest = whole.parse_known_args(arguments)
    if rest and options.command != "bench":
        whole.error(f"unrecognized arguments: {' '.join(rest)}")
    options.rest = rest
    if options.version:
        from importlib.metadata import version

        print(f"regard {version('regard')}")
        return 0
    if options.command is None:
        whole.print_help()
        return FAULT
    try:
        code = _run(options)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # The reader went away (`regard look … | head`): not an error, and there is nobody to report to.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return INTERRUPTED


def _run(options: argparse.Namespace) -> int:
    try:
        options.run(options, Console(highlight=False))
    except BrokenPipeError:
        raise
    except (RegardError, OSError) as error:
        print(f"regard {options.command}: {error}", file=sys.stderr)
        return FAULT
    return 0


if __name__ == "__main__":
    sys.exit(main())
