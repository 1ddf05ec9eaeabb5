"""Files that are written under a temporary name and then renamed, so that none is ever there in part."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from regard.errors import OptionError


def writable_path(path: Path) -> Path:
    """The path itself, if a file can be written there; to be asked before a long run.

    Raises:
        OptionError: it is a folder, or its folder is missing or read-only.
    """
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


def disk_full(error: OSError) -> bool:
    """Whether an error says that a disk, or a limit on the size of files, has no room left."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class AtomicFile:
    """A binary file that is written under a temporary name beside its path and renamed to it by `commit`.

    A context: without `commit` nothing is left of it, and a file that was at the path before stays as it was.
    Temporary names are random: of two threads that write the same path at once, each has its own file and the
    last to commit stays.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
        self.file: BinaryIO = self._temporary.open("x+b")

    def commit(self) -> None:
        """Close the file and move it to its path."""
        self.file.close()
        self._temporary.replace(self.path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Closing writes what is still buffered: on a full disk it fails as the write before it did.
        with contextlib.suppress(OSError):
            self.file.close()
        self._temporary.unlink(missing_ok=True)


def write_text(text: str | Iterable[str], path: Path) -> int:
    """Write a text, whole or in pieces, as UTF-8 and atomically; return its size in bytes."""
    with AtomicFile(path) as target:
        size = sum(target.file.write(piece.encode("utf-8")) for piece in ((text,) if isinstance(text, str) else text))
        target.commit()
    return size
