"""Memory between inaccessible pages: reading or writing past a tensor's end ends the process.

Run as a program (test_guard.py does): `python guard.py isa`.
"""

from __future__ import annotations

import ctypes
import importlib
import itertools
import math
import mmap
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.mmap.restype = ctypes.c_void_p
LIBC.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
LIBC.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
LIBC.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
PAGE = mmap.PAGESIZE


class Guarded:
    """Makes tensors; their memory lives until `free`."""

    def __init__(self, behind: bool) -> None:
        self.behind = behind
        self.mappings: list[tuple[int, int]] = []

    def __call__(self, sizes: Sequence[int], dtype: torch.dtype) -> Tensor:
        count = math.prod(sizes)
        needed = count * dtype.itemsize
        rounded = -(-needed // PAGE) * PAGE
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        base = LIBC.mmap(None, rounded + 2 * PAGE, mmap.PROT_READ | mmap.PROT_WRITE, flags, -1, 0)
        assert base not in (None, ctypes.c_void_p(-1).value), "no memory"
        for guard in (base, base + PAGE + rounded):
            assert LIBC.mprotect(guard, PAGE, 0) == 0
        self.mappings.append((base, rounded + 2 * PAGE))
        at = base + PAGE + (rounded - needed if self.behind else 0)
        memory = (ctypes.c_char * needed).from_address(at)
        return torch.frombuffer(memory, dtype=dtype, count=count).view(tuple(sizes))

    def free(self) -> None:
        for base, size in self.mappings:
            LIBC.munmap(base, size)
        self.mappings.clear()


def recipes() -> list[object]:
    from native.raw import LAYOUTS, Recipe

    dtypes = itertools.cycle([torch.float32, torch.bfloat16, torch.float16])
    layouts = itertools.cycle(LAYOUTS)
    masks = itertools.cycle(["none", "causal", "spans", "tiles", "both"])
    tables = itertools.cycle(["none", "shared", "by head", "by head"])
    biases = itertools.cycle(
        [
            None,
            (True, True, True, True),
            (False, True, True, True),
            None,
            (True, False, True, False),
            (False, False, False, True),
            None,
        ]
    )
    sizes = [
        (1, 1, 1, 1),
        (2, 65, 7, 9),
        (4, 300, 64, 64),
        (1, 700, 40, 33),
        (3, 257, 16, 1),
        (5, 3, 3, 5),
        (33, 33, 8, 8),
        (63, 65, 17, 20),
        (64, 64, 32, 16),
        (65, 127, 64, 72),
        (97, 255, 33, 31),
        (130, 256, 16, 48),
        (127, 513, 20, 24),
        (16, 1100, 12, 8),
        (70, 90, 128, 256),
    ]
    return [
        Recipe(
            dtype=next(dtypes),
            b=1 + j % 2,
            g=1 + i % 2,
            repeats=1 + (i + j) % 3,
            q=q,
            k=k,
            d=d,
            dv=dv,
            layouts=(next(layouts), next(layouts), next(layouts)),
            written=("heads apart", "heads in rows", "wide rows", "turned")[j],
            mask=next(masks),
            own=(j % 2 == 0, i % 2 == 0),
            table=next(tables),
            bias=next(biases),
            wide_bias=i % 3 == 0,
            sink=j == 1,
            sigmoid=(i + j) % 7 == 3,
            softcap=3.0 * (j == 2),
            dropout=0.2 * ((i + j) % 4 == 0),
            lse_grad=j % 2 == 1,
            scale=-0.2 if i % 5 == 4 else None,
            seed=10 * i + j,
        )
        for i, (q, k, d, dv) in enumerate(sizes)
        for j in range(4)
    ]


def main(isa: str, side: str = "") -> None:
    sys.path.insert(0, str(Path(__file__).parents[1]))
    importlib.import_module("conftest")  # says which core is tested
    from native.raw import Recipe, check
    from native.statistics_cases import check_statistics

    if side:  # to see that a wrong read does end the process
        t = Guarded(side == "behind")((5,), torch.float32)
        ctypes.c_float.from_address(t.data_ptr() + (20 if side == "behind" else -4)).value  # noqa: B018
        return
    for behind in (True, False):
        new = Guarded(behind)
        for i, recipe in enumerate(recipes()):
            assert isinstance(recipe, Recipe)
            print("behind" if behind else "before", recipe, flush=True)
            check(recipe, [isa], 1, new)
            if i % 3 == 0:
                check_statistics(recipe, [isa], 1, new)
            new.free()
    print("all well")


if __name__ == "__main__":
    main(*sys.argv[1:])
