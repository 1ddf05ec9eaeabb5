"""What runs here, and what does not, and why: the facts behind `regard doctor`."""

from __future__ import annotations

import argparse
import platform
from importlib import metadata

import torch
from rich.console import Console
from rich.table import Table

from regard import backends
from regard._native import core
from regard.cli.command import Subparsers
from regard.system.hardware import processor

Facts = list[tuple[str, str]]

# Backends that are planned and that this version does not have.
NOT_YET = {"flex": "not built yet: on CUDA the chunked backend runs every call in this version"}


def report() -> Facts:
    """Every fact, as (name, value), in the order in which `regard doctor` prints them.

    >>> dict(report())["python"] == platform.python_version()
    True
    """
    return [*versions(), *machine(), *runs()]


def versions() -> Facts:
    """What is installed, and how the compiled core was built."""
    info = core.system_info()
    cuda = f", CUDA {torch.version.cuda}" if torch.version.cuda else ""
    return [
        ("regard", metadata.version("regard")),
        ("python", platform.python_version()),
        ("torch", torch.__version__ + cuda),
        ("compiled core", f"{info.version} by {info.compiler}, C++{info.standard // 100 % 100}"),
        ("its flags", info.flags or "none"),
    ]


def machine() -> Facts:
    """The system, the processor and the threads that may be used."""
    info = core.system_info()
    absent = [isa for isa in info.known if isa not in info.isas]
    return [
        ("system", platform.platform(terse=True)),
        ("processor", processor()),
        ("architecture", info.architecture),
        ("instruction sets", ", ".join(info.isas)),
        ("not here", ", ".join(absent) or "none"),
        ("kernels", f"{core.isa()} of {', '.join(core.kernels())}; REGARD_ISA asks for another"),
        ("threads", f"{torch.get_num_threads()} for torch, {info.threads} in hardware"),
        *((f"gpu {i}", torch.cuda.get_device_name(i)) for i in range(torch.cuda.device_count())),
    ]


def runs() -> Facts:
    """For each backend, in the order of choice: "runs here", or the one sentence why not."""
    reasons = {backend.name: backend.available() for backend in backends.ORDER}
    reasons |= {name: why for name, why in NOT_YET.items() if name not in reasons}
    return [(f"backend {name}", f"no: {why}" if why else "runs here") for name, why in reasons.items()]


def add_parser(commands: Subparsers) -> None:
    """Add `regard doctor`."""
    parser = commands.add_parser("doctor", help="what runs here, and what does not, and why")
    parser.set_defaults(run=main)


def main(options: argparse.Namespace, console: Console) -> None:
    """Print the report as a table."""
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in report():
        style = "yellow" if value.startswith("no: ") else ""
        table.add_row(name, value, style=style)
    console.print(table)
