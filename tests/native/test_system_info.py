"""`core.system_info` agrees with the system itself."""

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
    assert core.system_info().isas == (*expected, "portable")


def test_portable_is_always_the_last_resort():
    info = core.system_info()
    assert info.isas[-1] == "portable"
    assert info.known[-1] == "portable"


def test_what_is_here_is_known_and_in_the_same_order():
    info = core.system_info()
    assert tuple(isa for isa in info.known if isa in info.isas) == info.isas


def test_every_64_bit_arm_has_neon_and_nothing_else_does():
    assert ("neon" in core.system_info().isas) == (core.system_info().architecture == "arm64")


@pytest.mark.skipif(sys.platform != "linux", reason="names of machines differ by system")
def test_architecture_is_that_of_the_system():
    names = {"x86_64": "x86-64", "i686": "x86", "aarch64": "arm64"}
    assert core.system_info().architecture == names.get(platform.machine(), "other")


def test_threads_are_those_of_the_system():
    # Some C libraries count the threads of the machine, others those that the process may use.
    allowed = {os.cpu_count()}
    if hasattr(os, "sched_getaffinity"):
        allowed.add(len(os.sched_getaffinity(0)))
    assert core.system_info().threads in allowed


def test_the_core_was_built_for_this_version_of_the_package():
    # A stale core after a change of version: `make setup` builds it anew.
    assert core.system_info().version == metadata.version("regard")


def test_the_core_says_how_it_was_built():
    info = core.system_info()
    assert info.standard >= 202002
    assert any(character.isdigit() for character in info.compiler)
    assert isinstance(info.flags, str)


def test_system_info_cannot_be_changed():
    with pytest.raises(AttributeError):
        core.system_info().version = "0"  # pyright: ignore[reportAttributeAccessIssue]


def test_the_stub_says_what_the_module_has():
    stub = ast.parse((Path(__file__).parents[2] / "src/regard/_native/core.pyi").read_text())
    classes = [node for node in stub.body if isinstance(node, ast.ClassDef)]
    assert offered(core) == defined(stub) | {node.name for node in classes}
    for node in classes:
        assert offered(getattr(core, node.name)) == defined(node), node.name


def offered(module_or_class: object) -> set[str]:
    return {name for name in dir(module_or_class) if not name.startswith("_")}


def defined(node: ast.Module | ast.ClassDef) -> set[str]:
    names = {child.name for child in node.body if isinstance(child, ast.FunctionDef)}
    return {name for name in names if not name.startswith("_")}
