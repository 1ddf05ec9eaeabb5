"""Where files that can be made again are kept between runs."""

from __future__ import annotations

import os
from pathlib import Path

from regard.errors import OptionError


def cache_folder() -> Path:
    """Where what can be made again is kept here: ``$XDG_CACHE_HOME/regard`` or the system's own."""
    given = os.environ.get("XDG_CACHE_HOME")
    if given and Path(given).is_absolute():
        return Path(given) / "regard"
    home = Path.home()
    if (local := os.environ.get("LOCALAPPDATA")) and os.name == "nt":
        return Path(local) / "regard" / "Cache"
    library = home / "Library" / "Caches"
    return (library if library.is_dir() else home / ".cache") / "regard"


def cached(part: str) -> Path:
    """A folder of the cache, which is there.

    Raises:
        OptionError: it cannot be made.
    """
    made = cache_folder() / part
    try:
        made.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OptionError(
            "cache",
            f"{made}, which cannot be made ({error.strerror})",
            "a folder that can be written to",
            "Set XDG_CACHE_HOME to one.",
        ) from error
    return made
