"""Files that are written beside their place and renamed, so that none is ever half there."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

from regard.errors import OptionError


def writable(path: Path) -> Path:
    """The path, if a report can be written there: better known before a long run than after it."""
    if path.is_dir():
        raise OptionError("--out", f"{path}, a folder", "the name of a file", "Add page.html to it.")
    if not path.parent.is_dir():
        raise OptionError(
            "--out",
            f"{path}, in a folder that is not there",
            "a file in a folder that is",
            f"Make it first: mkdir -p {path.parent}",
        )
    if not os.access(path.parent, os.W_OK):
        raise OptionError(
            "--out",
            f"{path}, in a folder that may not be written to",
            "a file in one that may",
            "Choose another folder.",
        )
    return path


def full(error: OSError) -> bool:
    """Whether an error is that of a disk, or of a limit on files, that has no room."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def beside(path: Path) -> tuple[Path, BinaryIO]:
    """A new file beside a path, to be written and then put in its place; its name is nobody else's.

    Two threads of a process may make the same file at once: each then has its own, and the last one stays.
    """
    made = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    return made, made.open("x+b")


def put(page: str | Iterable[str], path: Path) -> int:
    """Write a text, whole or in pieces, beside its place, then put it there, and return its bytes."""
    made, file = beside(path)
    size = 0
    try:
        with file:
            for piece in (page,) if isinstance(page, str) else page:
                size += file.write(piece.encode("utf-8"))
        made.replace(path)
    finally:
        made.unlink(missing_ok=True)
    return size
