"""Kernels for processors that are not here, emulated; `native/tests/self_test.cpp` compares them with plain loops."""

import functools
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from regard._native import core

NATIVE = Path(__file__).parents[2] / "native"
ARM = "aarch64-linux-gnu"
PASSES = "tests/self_test.cpp", "parallel.cpp", "forward.cpp", "backward.cpp", "second_pass.cpp", "peak.cpp"
FLAGS = "-std=c++20 -O1 -ffp-contract=off -Wno-psabi -pthread".split()


@functools.cache
def has_simde(compiler: str) -> bool:
    command = [compiler, "-E", "-x", "c++", "-include", "simde/x86/avx512.h", os.devnull]
    return subprocess.run(command, capture_output=True).returncode == 0


def self_test(folder: Path, compiler: str, isa: str, *flags: str, runner: tuple[str, ...] = ()) -> str:
    """Build the kernels of one file in `native/isa` with the self-test, and run it."""
    program = str(folder / isa)
    sources = [str(NATIVE / f) for f in (*PASSES, f"isa/{isa}.cpp")]
    built = subprocess.run(
        [compiler, *FLAGS, *flags, f"-I{NATIVE}", f"-DREGARD_SELF_TEST={isa}", *sources, "-o", program],
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stderr[-4000:]
    ran = subprocess.run([*runner, program], capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, f"{ran.returncode}\n{ran.stdout}\n{ran.stderr}"
    return ran.stdout


@pytest.mark.slow
def test_neon_under_qemu(tmp_path: Path) -> None:
    compiler, qemu = f"{ARM}-g++", "qemu-aarch64"
    missing = [tool for tool in (compiler, qemu) if not shutil.which(tool)]
    if missing:
        pytest.skip(f"needs {' and '.join(missing)} (Debian: g++-{ARM} and qemu-user)")
    output = self_test(tmp_path, compiler, "neon", runner=(qemu, "-L", f"/usr/{ARM}"))
    assert output.startswith("PASS neon")


@pytest.mark.slow
def test_avx512_by_simde(tmp_path: Path) -> None:
    compiler = os.environ.get("CXX", "c++")
    if "avx2" not in core.kernels():
        pytest.skip("AVX-512 is emulated by AVX2, which this machine lacks")
    if not shutil.which(compiler) or not has_simde(compiler):
        pytest.skip("needs a compiler and SIMDe (Debian: libsimde-dev)")
    here = Path(__file__).parent / "emulated"  # with a header that stands before the compiler's own
    flags = "-O0", "-mavx2", "-mfma", "-mf16c", "-DREGARD_EMULATED", "-isystem", str(here)
    assert self_test(tmp_path, compiler, "avx512bf16", *flags).startswith("PASS avx512-bf16")
