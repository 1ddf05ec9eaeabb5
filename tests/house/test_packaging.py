"""What is shipped, and what is said about it."""

import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

from regard.cli import bench as cli_bench
from regard.errors import OptionError

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())

# Built in pieces, or this file would hold what it forbids.
HOSTS = ["py" + "pi.org", "python" + "hosted.org", "download.py" + "torch.org", "npm" + "js.org"]
MACHINE_PATHS = ["/wo" + "rk/", "/opt/" + "pypi", "/opt/" + "wheels", "/ro" + "ot/", "/Us" + "ers/"]


def kept_files() -> list[Path]:
    """What git tracks, and what it would if all were added now."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        out = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("needs a git checkout")
    return [path for name in out.decode().split("\0") if name and (path := ROOT / name).is_file()]


def texts() -> list[tuple[str, str]]:
    out: list[tuple[str, str]] = []
    for path in kept_files():
        raw = path.read_bytes()
        if b"\0" not in raw:
            out.append((str(path.relative_to(ROOT)), raw.decode()))
    return out


@pytest.mark.parametrize("word", HOSTS + MACHINE_PATHS)
def test_no_file_names_a_registry_host_or_a_path_of_one_machine(word):
    assert [name for name, text in texts() if word in text] == []


def test_one_version():
    version = PROJECT["project"]["version"]
    assert metadata.version("regard") == version
    assert tomllib.loads((ROOT / "benchmarks/pyproject.toml").read_text())["project"]["version"] == version
    assert re.search(rf"^## .*\b{re.escape(version)}\b", (ROOT / "CHANGELOG.md").read_text(), re.M)


def test_torch_is_pinned_and_every_requirement_has_a_constraint():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    pinned = {name.lower().replace("_", "-") for name in pins}
    project = PROJECT["project"]
    requirements = project["dependencies"] + project["optional-dependencies"]["dev"]
    requirements += PROJECT["build-system"]["requires"]
    names = {re.split(r"[\[<>=~! ;]", requirement)[0].lower() for requirement in requirements}
    assert names <= pinned
    assert pins["torch"] == "2.13.0"


def test_the_wheel_holds_every_file_of_the_package_and_nothing_else(tmp_path, monkeypatch):
    from scikit_build_core.build import build_wheel

    monkeypatch.chdir(ROOT)
    name = build_wheel(str(tmp_path), {"wheel.cmake": "false", "build.verbose": "false"})
    inside = {n for n in zipfile.ZipFile(tmp_path / name).namelist() if n.startswith("regard/")}
    page = [p for p in (ROOT / "src/regard/export/static").rglob("*") if p.is_file()]  # if it was built
    ours = [p for p in kept_files() if (ROOT / "src") in p.parents]
    assert inside == {str(p.relative_to(ROOT / "src")) for p in (*ours, *page)}
    assert "regard/py.typed" in inside
    roots = {n.split("/")[0] for n in zipfile.ZipFile(tmp_path / name).namelist()}
    assert {root for root in roots if not root.endswith(".dist-info")} == {"regard"}


def test_the_sdist_has_the_benchmarks_and_the_experiments(tmp_path, monkeypatch):
    from scikit_build_core.build import build_sdist

    monkeypatch.chdir(ROOT)
    with tarfile.open(tmp_path / build_sdist(str(tmp_path))) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames()}
    sources = [p for p in kept_files() if {ROOT / "benchmarks", ROOT / "experiments"} & set(p.parents)]
    assert sources
    assert inside >= {str(path.relative_to(ROOT)) for path in sources}


def test_the_package_needs_neither_the_benchmarks_nor_the_experiments():
    apart = re.compile(r"^\s*(?:from|import) (?:regard_benchmarks|experiments)\b", re.M)
    importing = [path.name for path in (ROOT / "src").rglob("*.py") if apart.search(path.read_text())]
    assert importing == ["bench.py"]


def test_bench_without_the_benchmarks_says_how_to_get_them(tmp_path, monkeypatch):
    monkeypatch.setattr(cli_bench, "CHECKOUT", tmp_path)
    monkeypatch.setattr(cli_bench, "PACKAGE", "regard_benchmarks_that_are_not_installed")
    with pytest.raises(OptionError, match=r'Install it: pip install "regard\[bench\]"'):
        cli_bench.run_benchmarks(["--quick"])


def test_bench_is_found_in_a_checkout():
    path = os.pathsep.join(p for p in sys.path if p and Path(p) != ROOT / "benchmarks")
    command = [sys.executable, "-P", "-m", "regard.cli", "bench", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": path})
    assert done.stdout.startswith("usage: regard bench")


def test_the_embedded_model_is_small_enough_to_ship():
    weights = list((ROOT / "src/regard/models").glob("**/*.safetensors"))
    assert sum(path.stat().st_size for path in weights) <= 8_000_000


def test_every_console_script_leads_somewhere():
    for entry in metadata.entry_points(group="console_scripts", name="regard"):
        assert callable(entry.load())


def test_imports_have_a_contract_and_make_test_runs_it():
    contracts = PROJECT["tool"]["importlinter"]["contracts"]
    assert {contract["id"] for contract in contracts} >= {"rows", "backends"}
    assert "lint-imports" in (ROOT / "Makefile").read_text()


def test_shapes_are_checked_at_run_time_in_tests():
    # An editable install has its own import hook, and jaxtyping's must come before it.
    import regard.shapes

    loader = regard.shapes.__spec__.loader
    assert type(loader).__module__.startswith("jaxtyping")
