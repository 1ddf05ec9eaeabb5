"""Names are plain technical English, and one name means one thing."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PYTHON = ("src/regard", "benchmarks", "experiments")

WORDS = frozenset(("asked", "told", "wanted", "held", "sight", "glance", "carried", "telling", "placed", "spelled"))
"""What no name may contain: none of them says to a reader who knows PyTorch and attention what a thing is."""


def python_files() -> list[Path]:
    return sorted(path for folder in PYTHON for path in (ROOT / folder).rglob("*.py"))


def names_of(tree: ast.AST) -> Iterator[str]:
    """Every name that a module defines: of functions, classes, parameters, variables, attributes and imports."""
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield name
            case ast.arg(arg=name):
                yield name
            case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
                yield name
            case ast.alias(asname=str(name)):
                yield name
            case ast.ExceptHandler(name=str(name)):
                yield name
            case _:
                pass


def parts(name: str) -> set[str]:
    """The words of a name in snake_case or CamelCase; "held out" is the field's term for data kept from training."""
    name = re.sub("held_?out", "", name, flags=re.I)
    return {word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)}


def test_the_words_of_a_name() -> None:
    assert parts("_keys_asked") == {"keys", "asked"}
    assert parts("HTTPWanted") == {"http", "wanted"}
    assert parts("held_out_bits") == {"bits"}
    assert parts("highlight") == {"highlight"}


def test_no_python_name_uses_private_vocabulary() -> None:
    bad: set[str] = set()
    for path in python_files():
        place = str(path.relative_to(ROOT))
        names = {*names_of(ast.parse(path.read_text(encoding="utf-8"))), path.stem, path.parent.name}
        bad |= {f"{place}: {name}" for name in names if parts(name) & WORDS}
    assert sorted(bad) == []


@pytest.mark.parametrize(
    ("folder", "endings"), [("native", (".cpp", ".h", ".inc", ".hpp")), ("web/src", (".ts", ".tsx", ".css"))]
)
def test_no_native_or_web_name_uses_private_vocabulary(folder: str, endings: tuple[str, ...]) -> None:
    bad: set[str] = set()
    for path in sorted((ROOT / folder).rglob("*")):
        if path.suffix in endings and not path.name.endswith(".d.ts"):
            names = {*re.findall(r"[A-Za-z_]\w*", without_prose(path.read_text(encoding="utf-8"))), path.stem}
            place = str(path.relative_to(ROOT))
            bad |= {f"{place}: {name}" for name in names if parts(name) & WORDS}
    assert sorted(bad) == []


PROSE = re.compile(r"""/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'|`(?:\\.|[^`\\])*`""", re.S)


def without_prose(source: str) -> str:
    """C++ or TypeScript without its comments and strings."""
    return PROSE.sub(" ", source)


def test_no_two_classes_have_the_same_name() -> None:
    places: defaultdict[str, list[str]] = defaultdict(list)
    for path in sorted((ROOT / "src/regard").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                places[node.name].append(str(path.relative_to(ROOT / "src/regard")))
    assert {name: where for name, where in places.items() if len(where) > 1} == {}


def test_nothing_is_exempt_from_formatting() -> None:
    mark = "# fmt" + ": "
    files = [*python_files(), *(ROOT / "tests").rglob("*.py")]
    assert [str(path.relative_to(ROOT)) for path in files if mark in path.read_text(encoding="utf-8")] == []
