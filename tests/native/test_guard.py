"""No kernel reads or writes past the end of a tensor, or before its start."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from regard._native import core

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="guard pages are Linux's here")
GUARD = Path(__file__).parent / "guard.py"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(GUARD), *arguments], capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("isa", core.kernels())
def test_memory_beside_tensors_stays_untouched(isa: str) -> None:
    done = run(isa)
    last = done.stdout.splitlines()[-1:]
    assert done.returncode == 0, f"{done.returncode} at {last}\n{done.stderr[-2000:]}"
    assert last == ["all well"]


@pytest.mark.parametrize("side", ["behind", "before"])
def test_the_guard_bites(side: str) -> None:
    assert run("portable", side).returncode == -signal.SIGSEGV
