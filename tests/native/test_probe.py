"""The CPU probe says what the system itself says."""

import ast
import os
import platform
import sys
from importlib import metadata
from pathlib import Path

import pytest

from regard._native import core

# What Linux calls the instructions that each of our levels needs.
LINUX = {
    "amx-bf16": {"amx_tile", "amx_bf16"},
    "avx512-bf16": {"avx512_bf16"},
    "avx512": {"avx512f", "avx512bw", "avx512dq", "avx512vl"},
    "avx2": {"avx", "avx2", "fma", "f16c"},
}
X86_LEVELS = ["avx2", "avx512", "avx512-bf16", "amx-bf16"]  # each holds those before it


def linux_flags() -> set[str]:
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.exists() or platform.machine() not in {"x86_64", "i686"}:
        pytest.skip("only Linux on x86 lists its flags")
    lines = cpuinfo.read_text().splitlines()
    return set(next(line for line in lines if line.startswith("flags")).split(":")[1].split())


def test_levels_agree_with_the_system():
    flags = linux_flags()
    expected, missing = [], False
    for level in X86_LEVELS:
        missing = missing or not flags >= LINUX[level]
        if not missing:
            expected.insert(0, level)
    assert core.probe().isas == (*expected, "portable")


def test_portable_is_always_the_last_resort():
    probe = core.probe()
    assert probe.isas[-1] == "portable"
    assert probe.known[-1] == "portable"


def test_what_is_here_is_known_and_in_the_same_order():
    probe = core.probe()
    assert tuple(isa for isa in probe.known if isa in probe.isas) == probe.isas


def test_every_64_bit_arm_has_neon_and_nothing_else_does():
    assert ("neon" in core.probe().isas) == (core.probe().architecture == "arm64")


@pytest.mark.skipif(sys.platform != "linux", reason="names of machines differ by system")
def test_architecture_is_that_of_the_system():
    names = {"x86_64": "x86-64", "i686": "x86", "aarch64": "arm64"}
    assert core.probe().architecture == names.get(platform.machine(), "other")


def test_threads_are_those_of_the_system():
    # Some C libraries count the threads of the machine, others those that the process may use.
    allowed = {os.cpu_count()}
    if hasattr(os, "sched_getaffinity"):
        allowed.add(len(os.sched_getaffinity(0)))
    assert core.probe().threads in allowed


def test_the_core_was_built_for_this_version_of_the_package():
    # A stale core after a change of version: `make setup` builds it anew.
    assert core.probe().version == metadata.version("regard")


def test_the_core_says_how_it_was_built():
    probe = core.probe()
    assert probe.standard >= 202002
    assert any(character.isdigit() for character in probe.compiler)
    assert isinstance(probe.flags, str)


def test_a_probe_cannot_be_changed():
    with pytest.raises(AttributeError):
        core.probe().version = "0"  # pyright: ignore[reportAttributeAccessIssue]


def test_the_stub_says_what_the_module_has():
    stub = ast.parse((Path(__file__).parents[2] / "src/regard/_native/core.pyi").read_text())
    classes = [node for node in stub.body if isinstance(node, ast.ClassDef)]
    assert offered(core) == defined(stub) | {one.name for one in classes}
    for one in classes:
        assert offered(getattr(core, one.name)) == defined(one), one.name


def offered(thing: object) -> set[str]:
    return {name for name in dir(thing) if not name.startswith("_")}


def defined(node: ast.Module | ast.ClassDef) -> set[str]:
    names = {child.name for child in node.body if isinstance(child, ast.FunctionDef)}
    return {name for name in names if not name.startswith("_")}
