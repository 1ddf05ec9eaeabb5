"""A checkout builds its page when it must, by stand-ins for node and npm; and says so, or what is missing."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from regard.errors import OptionError
from regard.export import front_end

INDEX = """<!doctype html>
<html><head>
    <meta charset="utf-8" />
    <title>regard</title>
    <link rel="icon" href="/assets/icon.svg" />
    <script type="module" crossorigin src="/assets/index.js"></script>
    <link rel="stylesheet" crossorigin href="/assets/index.css">
</head><body><div id="page"></div></body></html>
"""


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with sources of a page, and its own node and npm, which writes down what it is asked."""
    web, tools = tmp_path / "web", tmp_path / "tools"
    for folder in (web / "src", tools, tmp_path / "src/regard/explorer"):
        folder.mkdir(parents=True)
    for name in ("package.json", "package-lock.json", "index.html", "src/main.tsx"):
        (web / name).write_text("{}")
    static = tmp_path / "src/regard/export/static"
    script(tools / "node", "echo v20.19.1")
    script(
        tools / "npm",
        f"""echo "$1" >> {tmp_path}/asked
    if [ "$1" = ci ]; then mkdir -p node_modules; touch node_modules/.package-lock.json; fi
    if [ "$1" = run ]; then mkdir -p {static}/assets; cd {static}
    touch index.html assets/worker.js; fi""",
    )
    monkeypatch.setenv("PATH", f"{tools}:/usr/bin:/bin")
    monkeypatch.setattr(front_end, "_WEB", web)
    monkeypatch.setattr(front_end, "STATIC", static)
    return tmp_path


def script(path: Path, does: str) -> None:
    path.write_text(f"#!/bin/sh\n{does}\n")
    path.chmod(0o755)


def asked(checkout: Path) -> list[str]:
    path = checkout / "asked"
    return path.read_text().split() if path.exists() else []


def older(path: Path) -> None:
    os.utime(path, (1, 1))


def test_it_is_built_once_and_again_when_its_sources_change(checkout: Path) -> None:
    said: list[str] = []
    front_end.ensure_built(said.append)
    assert asked(checkout) == ["ci", "run"]
    assert len(said) == 2
    front_end.ensure_built(said.append)
    assert asked(checkout) == ["ci", "run"], "nothing has changed"
    older(front_end.STATIC / "index.html")
    front_end.ensure_built(said.append)
    assert asked(checkout) == ["ci", "run", "run"], "what builds it is there"
    older(front_end.STATIC / "index.html")
    older(checkout / "web/node_modules/.package-lock.json")
    front_end.ensure_built()
    assert asked(checkout)[3:] == ["ci", "run"], "other versions are locked"


def test_a_build_that_ended_in_the_middle_is_made_whole(checkout: Path) -> None:
    front_end.ensure_built()
    (front_end.STATIC / "assets/worker.js").unlink()
    front_end.ensure_built()
    assert (front_end.STATIC / "assets/worker.js").is_file()
    assert asked(checkout) == ["ci", "run", "run"]


@pytest.mark.parametrize(
    ("node", "said"),
    [(None, "no node here"), ("echo v20.18.0", "node 20.18 here"), ("echo v18.20.4", "node 18.20 here")],
)
def test_without_a_node_that_is_new_enough(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, node: str | None, said: str
) -> None:
    monkeypatch.setenv("PATH", str(checkout / "tools"))
    if node is None:
        (checkout / "tools/node").unlink()
    else:
        script(checkout / "tools/node", node)
    with pytest.raises(OptionError, match=rf"{re.escape(said)}; .*install nodejs and npm, then make web"):
        front_end.ensure_built()
    (front_end.STATIC / "assets").mkdir(parents=True)
    for name in ("index.html", "assets/worker.js"):
        (front_end.STATIC / name).write_text("old")
        older(front_end.STATIC / name)
    told: list[str] = []
    front_end.ensure_built(told.append)
    assert told == [f"the page is older than web/, and was not built anew: {said}"]
    assert asked(checkout) == []


def test_a_build_that_fails_says_why(checkout: Path) -> None:
    script(checkout / "tools/npm", "echo building; echo 'src/a.ts(1,2): error TS1: no'; exit 3")
    with pytest.raises(OptionError, match=r"npm ci failed \(src/a\.ts\(1,2\): error TS1: no\)"):
        front_end.ensure_built()


def test_a_page_that_is_too_large_is_built_all_the_same(checkout: Path) -> None:
    npm = checkout / "tools/npm"
    npm.write_text(npm.read_text() + 'if [ "$1" = run ]; then echo "the page is too large"; exit 1; fi\n')
    said: list[str] = []
    front_end.ensure_built(said.append)
    assert said[-1] == "the page is built, but npm run failed (the page is too large)"


def test_an_installed_package_without_its_page_is_incomplete(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(front_end, "_WEB", checkout / "elsewhere")
    for call in (front_end.ensure_built, lambda: front_end.html({"transport": "parent"})):
        with pytest.raises(OptionError, match=r"This installation of regard is incomplete"):
            call()
    assert asked(checkout) == []


def test_one_file_holds_all_of_it_and_nothing_in_it_ends_its_element(tmp_path: Path) -> None:
    assets = tmp_path / "assets"
    assets.mkdir()
    (tmp_path / "index.html").write_text(INDEX)
    code = 'const a = "</script>", b = "<!--", c = 1 < 2, d = "<script>";'
    (assets / "index.js").write_text(code)
    (assets / "index.css").write_text("a { content: '</style>' }")
    (assets / "icon.svg").write_text("<svg/>")
    with pytest.raises(OptionError, match=r"got no worker\.js in"):
        front_end.html({"transport": "worker"}, built=front_end.files(tmp_path))
    (assets / front_end.WORKER).write_text('postMessage("</script>")')
    about = {"transport": "worker", "name": "</script><!--"}
    data = [("a/0/q", ("QUJD", "REVG"))]
    text = "".join(front_end.html(about, data, title="<b>", built=front_end.files(tmp_path)))
    assert text.count("</script>") == text.count("<script ") == 4
    assert text.count("</style>") == 1
    assert "<!--" not in text
    assert "<title>&lt;b&gt;</title>" in text
    assert 'id="regard-data/a/0/q">QUJDREVG</script>' in text
    assert "/assets/" not in text
    alone = "".join(front_end.html({"transport": "parent"}, built=front_end.files(tmp_path)))
    assert "regard-worker" not in alone


def test_strings_of_code_mean_what_they_meant(tmp_path: Path) -> None:
    import shutil

    if shutil.which("node") is None:
        pytest.skip("node runs it")
    code = front_end._inert('console.log("</script><!--<SCRIPT>" + `</script>`, /<\\/script>/.test("</script>"))')
    told = subprocess.run(["node", "-e", code], capture_output=True, text=True, check=True).stdout
    assert told == "</script><!--<SCRIPT></script> true\n"
