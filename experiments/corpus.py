"""The corpus of the embedded model: the Python standard library's own sources, in training and held-out modules.

The split depends on names alone. Sources are grouped by top-level module (`json/decoder.py`
belongs to `json`), and a group is held out when the SHA-256 of its name is below a bound, about one in
twenty. A held-out module's own tests stay out of training too, since they quote it; they are not
evaluated either. Generated tables (codecs, the pydoc topics, unidata) are excluded: no person wrote them.
"""

from __future__ import annotations

import hashlib
import re
import sysconfig
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Corpus", "SourceFile", "corpus", "held_out"]

HELD_OUT_ONE_IN = 20

# Generated tables, third-party packages, and test fixtures with deliberate errors or other encodings (also the `tests`
# folders of some packages).
_SKIP = frozenset(("site-packages", "encodings", "pydoc_data", "lib2to3", "__phello__", "encoded_modules", "tests"))
_SKIP_NAME = re.compile(r"_sysconfigdata|badsyntax|bad_|test_lib2to3|test_unicode_identifiers")
_TEST_DIRS = frozenset(("test", "idle_test"))


@dataclass(frozen=True)
class SourceFile:
    """One source file: its path below the standard library, its text, and whether it is a test."""

    name: str
    text: str
    is_test: bool


@dataclass(frozen=True)
class Corpus:
    """Training sources (modules and tests) and held-out sources (modules alone), each in order."""

    train: tuple[SourceFile, ...]
    held_out: tuple[SourceFile, ...]


def held_out(module: str) -> bool:
    """Whether a top-level module is kept out of training, by a hash of its name alone.

    >>> held_out("json"), held_out("_json") == held_out("json")
    (True, True)
    """
    digest = hashlib.sha256(module.lstrip("_").encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64 < 1 / HELD_OUT_ONE_IN


def _tested_modules(parts: tuple[str, ...]) -> set[str]:
    """Names of modules that a test may test, by its path: test/test_json/test_dump.py -> json, dump, test_dump, test.

    Names that are no modules can only keep more tests out of training.
    """
    names = set[str]()
    for part in parts:
        stem = part.removesuffix(".py")
        for trimmed in (stem, re.sub(r"^test_?|_?tests?$", "", stem)):
            trimmed = trimmed.lstrip("_")
            names.add(trimmed)
            # test_shelve_corner.py tests `shelve`: every prefix that ends at an underscore counts.
            names.update(trimmed[: m.start()] for m in re.finditer("_", trimmed))
    return names - {""}


def corpus(root: str | Path | None = None) -> Corpus:
    """Read the sources below `root` (by default the running Python's standard library).

    >>> code = corpus()
    >>> len(code.train) > len(code.held_out) > 0
    True
    """
    base = Path(root if root is not None else sysconfig.get_paths()["stdlib"])
    train, evaluated = list[SourceFile](), list[SourceFile]()
    for path in sorted(base.rglob("*.py")):
        parts = path.relative_to(base).parts
        if _SKIP.intersection(parts) or parts[0].startswith("config-"):
            continue
        if any(_SKIP_NAME.search(part) for part in parts):
            continue
        try:
            text = path.read_bytes().decode("utf-8")
        except UnicodeDecodeError:
            continue  # a fixture in another encoding
        if not text.strip():
            continue
        is_test = bool(_TEST_DIRS.intersection(parts)) or parts[-1].startswith("test_")
        source = SourceFile("/".join(parts), text, is_test)
        is_held_out = held_out(parts[0].removesuffix(".py"))
        if is_test:
            if not is_held_out and not any(held_out(name) for name in _tested_modules(parts[1:])):
                train.append(source)
        elif is_held_out:
            evaluated.append(source)
        else:
            train.append(source)
    return Corpus(tuple(train), tuple(evaluated))
