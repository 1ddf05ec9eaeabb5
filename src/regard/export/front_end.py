"""The page that Vite builds from web/: its files, how a checkout builds it, and one HTML file of it."""

from __future__ import annotations

import base64
import hashlib
import json
import mimetypes
import re
import shutil
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping
from html import escape
from pathlib import Path
from typing import Any

from regard.errors import OptionError

STATIC = Path(__file__).parent / "static"
"""Where the built page is, in an installed package and in a checkout that has built it."""

WORKER = "worker.js"
"""The script that answers the requests of an offline page."""

NODE = (20, 19)
"""The oldest node that builds the page."""

_WEB = Path(__file__).parents[3] / "web"
_SOURCES = "index.html", "package.json", "package-lock.json", "tsconfig.json", "vite.config.ts"
_POLICY = (
    "default-src 'none'; script-src 'sha256-{}' blob:; worker-src blob:; style-src 'unsafe-inline'; "
    "img-src data: blob:; base-uri 'none'; form-action 'none'"
)


def files(folder: Path | None = None) -> Mapping[str, tuple[bytes, str]]:
    """Every file of the built page and its media type, by its name; none where it is not built."""
    folder = STATIC if folder is None else folder
    result: dict[str, tuple[bytes, str]] = {}
    for directory in (folder, folder / "assets"):
        for path in sorted(directory.iterdir()) if directory.is_dir() else ():
            if path.is_file() and not path.name.startswith("."):
                kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
                result[path.name] = path.read_bytes(), kind
    return result


def html(
    about: Mapping[str, Any],
    data: Iterable[tuple[str, Iterable[str]]] = (),
    *,
    title: str = "regard",
    built: Mapping[str, tuple[bytes, str]] | None = None,
) -> Iterator[str]:
    """The page as one HTML file that fetches nothing, a piece at a time.

    Args:
        about: The transport of the page's requests, as JSON: ``{"transport": "parent"}`` sends them to the parent
            window; ``{"transport": "worker", …}`` to the worker, which is included then.
        data: Arrays by their names, each as base64 in pieces.
        title: Of the document.
        built: The files of the page, if they were read before.

    Raises:
        OptionError: the page is not built.
    """
    page = files() if built is None else built
    missing = [name for name in ("index.html", *_workers(about)) if name not in page]
    if missing:
        raise OptionError(
            "page", f"no {missing[0]} in {STATIC}", "a page that is built", _HOW if _in_checkout() else _INCOMPLETE
        )
    return _pieces(page, about, data, title)


def _workers(about: Mapping[str, Any]) -> tuple[str, ...]:
    return (WORKER,) if about.get("transport") == "worker" else ()


def _pieces(
    page: Mapping[str, tuple[bytes, str]],
    about: Mapping[str, Any],
    data: Iterable[tuple[str, Iterable[str]]],
    title: str,
) -> Iterator[str]:
    index = page["index.html"][0].decode()
    index = re.sub(r"<title>.*?</title>", lambda _: f"<title>{escape(title)}</title>", index)
    index, script = _without(index, r'<script [^>]*src="[^"]*?([^"/]+)"[^>]*></script>')
    index, style = _without(index, r'<link rel="stylesheet"[^>]*href="[^"]*?([^"/]+)"[^>]*>')
    index, icon = _without(index, r'<link rel="icon"[^>]*href="[^"]*?([^"/]+)"[^>]*>')
    code = _inert(page[script][0].decode())
    digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    head, body = index.split("</head>", 1)
    before, after = head.split('<meta charset="utf-8" />', 1)
    body, end = body.split("</body>", 1)
    yield f'{before}<meta charset="utf-8" />\n    '
    yield f'<meta http-equiv="Content-Security-Policy" content="{_POLICY.format(digest)}" />'
    picture = base64.b64encode(page[icon][0]).decode()
    yield f'{after}<link rel="icon" href="data:{page[icon][1]};base64,{picture}" />\n'
    rules = page[style][0].decode().replace("</", "<\\/")
    yield f"<style>{rules}</style>\n</head>{body}"
    yield f'<script type="application/json" id="regard-about">{_inert_json(about)}</script>\n'
    for name in _workers(about):
        yield '<script type="text/plain" id="regard-worker">'
        yield _inert(page[name][0].decode())
        yield "</script>\n"
    for name, pieces in data:
        yield f'<script type="application/octet-stream" id="regard-data/{escape(name)}">'
        yield from pieces
        yield "</script>\n"
    yield f'<script type="module">{code}</script>\n</body>{end}'


def _without(index: str, pattern: str) -> tuple[str, str]:
    """An index without a link, and the name of the file to which it leads."""
    matches = re.findall(pattern, index)
    if len(matches) != 1:
        raise OptionError(
            "page", f"an index.html with {len(matches)} of {pattern}", "one of each", "Build the page anew: make web."
        )
    return re.sub(rf"\s*{pattern}", "", index), matches[0]


def _inert(code: str) -> str:
    """JavaScript in which no string ends the script element that contains it, or opens a comment there."""
    return re.sub(r"<(?=/script|!--|script)", r"\\x3c", code, flags=re.IGNORECASE)


def _inert_json(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c")


# ---------------------------------------------------------------- building it in a checkout

_HOW = (
    f"In this checkout it is built by node {NODE[0]}.{NODE[1]} or newer with npm: install nodejs and npm, "
    "then make web."
)
_INCOMPLETE = "This installation of regard is incomplete: install it anew, from a wheel that has the page."


def ensure_built(say: Callable[[str], None] = lambda line: None) -> None:
    """Build the page where it is missing or older than its sources, if this is a checkout with node.

    A page that is older than its sources and cannot be built again stays, with a message.

    Args:
        say: Called with a line about each step.

    Raises:
        OptionError: there is no page and none can be built.
    """
    if not _in_checkout():
        if _built_at() is None:
            raise OptionError("page", f"no page in {STATIC}", "the page that comes with regard", _INCOMPLETE)
        return
    if _fresh():
        return
    node, npm = _node(), shutil.which("npm")
    if node is not None and node >= NODE and npm is not None:
        import fcntl  # a checkout is of a system that has it

        with (_WEB / "package.json").open() as file:  # one at a time
            fcntl.flock(file, fcntl.LOCK_EX)
            why = None if _fresh() else _built(npm, say)
    else:
        there = "no node" if node is None else f"node {'.'.join(map(str, node))}"
        why = f"{there}{'' if npm else ' and no npm'} here"
    if why is None:
        return
    if _built_at() is None:
        raise OptionError("page", f"none that is built, and {why}", "a page that is built", _HOW)
    state = "is built, but" if _fresh() else "is older than web/, and was not built anew:"
    say(f"the page {state} {why}")


def _built_at() -> float | None:
    """When the page and its worker were built; None where one is missing, as in the middle of a build."""
    parts = STATIC / "index.html", STATIC / "assets" / WORKER
    return min(part.stat().st_mtime for part in parts) if all(map(Path.is_file, parts)) else None


def _fresh() -> bool:
    built_at = _built_at()
    return built_at is not None and built_at >= _sources_changed_at()


def _in_checkout() -> bool:
    return (_WEB / "package-lock.json").is_file() and _WEB.parent / "src" in STATIC.parents


def _sources_changed_at() -> float:
    """When the page's sources last changed."""
    paths = [_WEB / name for name in _SOURCES]
    paths += [path for path in (_WEB / "src").rglob("*") if not path.name.startswith(".")]
    return max(path.stat().st_mtime for path in paths if path.exists())


def _node() -> tuple[int, ...] | None:
    node = shutil.which("node")
    if node is None:
        return None
    output = subprocess.run([node, "--version"], capture_output=True, text=True, check=False).stdout
    match = re.match(r"v(\d+)\.(\d+)", output)
    return None if match is None else tuple(int(part) for part in match.groups())


def _built(npm: str, say: Callable[[str], None]) -> str | None:
    """Build it; why that failed, in a line, or None."""
    lock, installed = _WEB / "package-lock.json", _WEB / "node_modules" / ".package-lock.json"
    if not installed.is_file() or installed.stat().st_mtime < lock.stat().st_mtime:
        say("fetching what builds the page (npm ci in web/), once …")
        why = _run(npm, "ci", "--no-audit", "--no-fund", "--loglevel=error")
        if why is not None:
            return why
    say("building the page of web/ …")
    return _run(npm, "run", "--silent", "build")


def _run(npm: str, *what: str) -> str | None:
    done = subprocess.run([npm, *what], cwd=_WEB, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return None
    lines = [line.strip() for line in (done.stderr + done.stdout).splitlines() if line.strip()]
    wrong = next((line for line in lines if "error" in line.lower()), (lines or ["it said nothing"])[0])
    return f"npm {what[0]} failed ({wrong[:160]})"
