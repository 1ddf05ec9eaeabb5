"""The machine, as its operating system describes it."""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
import sys
from pathlib import Path


def processor() -> str:
    """The processor's name as its maker gives it.

    >>> len(processor()) > 0
    True
    """
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    if sys.platform == "darwin":
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    return platform.processor() or os.environ.get("PROCESSOR_IDENTIFIER", "unknown")


def free_memory() -> int | None:
    """Bytes that are free to use now, where the system says so.

    >>> (free_memory() or 1) > 0
    True
    """
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None


def peak_memory() -> int:
    """The greatest resident set that this process has had, in bytes.

    >>> peak_memory() > 2**20
    True
    """
    status = Path("/proc/self/status")
    if status.exists():
        # Not ru_maxrss here: on Linux it begins at the peak of the process that started this one.
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def forget_peak() -> None:
    """Let `peak_memory` begin anew at what this process has now, where the system can.

    >>> forget_peak()
    """
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
