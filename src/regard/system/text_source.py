"""A text that a person names: a file, standard input, or the text itself."""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from regard.errors import OptionError

_PATH_LIKE = re.compile(r"\S*([/\\]\S*|\.\w{1,8})")


@dataclass(frozen=True)
class TextSource:
    """A text and where it came from."""

    name: str
    text: str
    size: int
    """Its bytes, as they were read."""

    @property
    def lines(self) -> int:
        """How many lines it has; a last line without a line break counts."""
        return self.text.count("\n") + (not self.text.endswith("\n"))


def read_source(given: str, argument: str = "FILE") -> TextSource:
    """The text that a person means: "-" is standard input, an existing path its file, all else itself.

    Errors name the argument by which it was given.

    Raises:
        OptionError: it is empty, a folder, not text, or looks like a path to a file that is not there.

    >>> read_source("the cat sat").name
    'the given text'
    """
    if given == "-":
        return _decoded(argument, "standard input", sys.stdin.buffer.read())
    if os.path.exists(given):  # noqa: PTH110  (Path.exists raises on names that are too long)
        path = Path(given)
        if path.is_dir():
            raise OptionError(argument, f"{given}, a folder", "a file, - or a text", "Name a file in it.")
        # A package is known by its folder's name.
        package = path.name.startswith("__") and path.absolute().parent.name
        name = f"{package}/{path.name}" if package else path.name
        return _decoded(argument, name, path.read_bytes(), given)
    if _PATH_LIKE.fullmatch(given):
        raise OptionError(
            argument,
            f"{given}, which is not there",
            "a file, - or a text",
            "Check the path; a text that looks like one can be piped in, with -.",
        )
    return _decoded(argument, "the given text", given.encode("utf-8", "surrogateescape"))


def _decoded(argument: str, name: str, data: bytes, given: str | None = None) -> TextSource:
    given = name if given is None else given
    if b"\0" in data:
        raise OptionError(argument, f"{given}, which holds binary data", "text", "Choose a text file.")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise OptionError(
            argument,
            f"{given}, whose byte {error.start} is not UTF-8",
            "text in UTF-8",
            "Convert it, with iconv for example.",
        ) from None
    if not text:
        raise OptionError(
            argument, f"{given}, which is empty", "at least one character", "Choose a file with something in it."
        )
    return TextSource(name, text, len(data))
