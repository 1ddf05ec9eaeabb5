"""The folder for files that can be recomputed, which are kept between runs."""

from __future__ import annotations

import os
from pathlib import Path

from regard.errors import OptionError


def cache_folder() -> Path:
    """The cache folder of this machine: ``$XDG_CACHE_HOME/regard`` or the system's own."""
    given = os.environ.get("XDG_CACHE_HOME")
    if given and Path(given).is_absolute():
        return Path(given) / "regard"
    home = Path.home()
    if (local := os.environ.get("LOCALAPPDATA")) and os.name == "nt":
        return Path(local) / "regard" / "Cache"
    library = home / "Library" / "Caches"
    return (library if library.is_dir() else home / ".cache") / "regard"


def cached(part: str) -> Path:
    """A folder of the cache, which is created where it is missing.

    Raises:
        OptionError: it cannot be created.
    """
    folder = cache_folder() / part
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OptionError(
            "cache",
            f"{folder}, which cannot be made ({error.strerror})",
            "a folder that can be written to",
            "Set XDG_CACHE_HOME to one.",
        ) from error
    return folder
