"""What a module of a command provides."""

from __future__ import annotations

import argparse
from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class Subparsers(Protocol):
    """What ``ArgumentParser.add_subparsers`` returns; its class is private."""

    def add_parser(self, name: str, **options: Any) -> argparse.ArgumentParser: ...


@runtime_checkable
class Command(Protocol):
    """A module that adds the parser of its command, whose default `run` is called with options and a console."""

    def add_parser(self, commands: Subparsers) -> None: ...
