"""A measurement in a fresh Python process, which contains no memory of earlier measurements."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def run_in_new_process(module: str, *arguments: str) -> str | None:
    """What a module of this package prints as a program; None where it fails.

    >>> run_in_new_process("no_such_module") is None
    True
    """
    path = os.pathsep.join(filter(None, (str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH"))))
    # Without a fixed threshold glibc keeps what was freed, and what is allocated next shows no growth.
    environment = {**os.environ, "PYTHONPATH": path, "MALLOC_MMAP_THRESHOLD_": "65536"}
    command = [sys.executable, "-m", f"{__package__}.{module}", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    return done.stdout if done.returncode == 0 else None
