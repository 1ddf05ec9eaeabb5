"""Each instruction set's object file exports its table of kernels, and nothing that the linker could share.

A template of the C++ library that is compiled with AVX-512 may become the copy that the linker keeps for all,
and dies on other machines. So no kernel uses one.
"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CORE = os.environ.get("REGARD_CORE")
BUILD = Path(CORE).parent if CORE else ROOT / "build/editable"
OBJECTS = sorted((BUILD / "CMakeFiles/regard_native.dir/native/isa").glob("*.o"))

pytestmark = [
    pytest.mark.skipif(not OBJECTS, reason=f"no object files in {BUILD}: make setup leaves them"),
    pytest.mark.skipif(not shutil.which("nm"), reason="no nm here: it comes with the compiler"),
]


def symbols(file: Path) -> list[list[str]]:
    """Each external symbol of an object file: its name, then its kind."""
    answer = subprocess.run(["nm", "-P", "-g", str(file)], capture_output=True, text=True, check=True)
    return [line.split()[:2] for line in answer.stdout.splitlines()]


def sanitized(file: Path) -> bool:
    return any(name.startswith("__asan") for name, _ in symbols(file))


@pytest.mark.parametrize("file", OBJECTS, ids=lambda file: file.stem)
def test_kernels_export_one_table(file: Path) -> None:
    if sanitized(file):
        pytest.skip("the sanitizers add symbols of their own")
    isa = file.name.split(".")[0]
    exported = [name for name, kind in symbols(file) if kind not in "Uw"]
    assert exported == [f"_ZN6regard{len(isa)}{isa}7kernelsE"]


@pytest.mark.parametrize("file", OBJECTS, ids=lambda file: file.stem)
def test_kernels_call_only_c(file: Path) -> None:
    needed = {name for name, kind in symbols(file) if kind in "Uw"}
    assert not {name for name in needed if name.startswith(("_Z", "__cxa", "__gxx"))}


def test_nm_shows_what_other_files_share() -> None:
    others = sorted((BUILD / "CMakeFiles/regard_native.dir/native").glob("second_pass.cpp.o"))
    assert any(kind in "WVu" for file in others for _, kind in symbols(file))


def test_every_file_of_kernels_is_here_or_for_another_machine() -> None:
    files = {file.stem for file in (ROOT / "native/isa").glob("*.cpp")}
    built = {file.name.split(".")[0] for file in OBJECTS}
    assert built <= files
    assert "portable" in built
    assert files - built <= {"neon", "avx2", "avx512", "avx512bf16", "emulated"}
