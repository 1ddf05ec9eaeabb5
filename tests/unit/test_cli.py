"""The command line: what it runs, how it fails, and that it fails in one line."""

from __future__ import annotations

import subprocess
import sys
from argparse import Namespace
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from regard import cli
from regard.cli import look as look
from regard.errors import OptionError


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"regard {metadata.version('regard')}\n"


def test_no_command_prints_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 2
    said = capsys.readouterr().out
    assert all(name in said for name in ("look", "learn", "bench", "doctor"))


def test_unknown_options_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        cli.main(["look", "x y", "--colour"])
    assert "unrecognized arguments: --colour" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["none.py"], "FILE: got none.py, which is not there"),
        (["."], "FILE: got ., a folder"),
        ([""], "FILE: got the given text, which is empty"),
        (["x y", "--model", "gpt2"], "--model: got gpt2, which is not on this machine"),
        (["x y", "--layer", "99"], "--layer: got 99; allowed: 0 to"),
        (["x y", "--head", "-1"], "--head: got -1; allowed: 0 to"),
        (["x y", "--out", "none/page.html"], "in a folder that is not there"),
    ],
)
def test_faults_are_one_line_and_2(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["look", *arguments]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.startswith("regard look: ")
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("raised", "code"),
    [(OptionError("a", "b", "c", "d"), 2), (PermissionError(13, "denied"), 2), (KeyboardInterrupt(), 130)],
)
def test_how_it_ends(monkeypatch: pytest.MonkeyPatch, raised: BaseException, code: int) -> None:
    def fail(options: Namespace, console: Any) -> None:
        raise raised

    monkeypatch.setattr(look, "main", fail)
    assert cli.main(["look", "x"]) == code


@pytest.mark.usefixtures("built_page")
def test_look_writes_and_says_where(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "a [b] page.html"
    assert cli.main(["look", "def f(x):\n    return f(x)\n", "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert str(out) in said
    assert "\x1b" not in said  # no terminal, no colours
    assert out.read_text("utf-8").startswith("<!doctype html>")


def test_learn_and_doctor_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor"]) == 0
    assert "torch" in capsys.readouterr().out
    assert cli.main(["learn"]) == 0
    assert "query" in capsys.readouterr().out


def test_a_reader_that_goes_away() -> None:
    code = "import sys; from regard.cli import main; sys.exit(main(['doctor']))"
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={"PYTHONPATH": str(Path(cli.__file__).parents[1])},
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    with process.stderr as errors:
        said = errors.read().decode()
    process.wait()
    assert "Traceback" not in said
    assert "BrokenPipe" not in said
