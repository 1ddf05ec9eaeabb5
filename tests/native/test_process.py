"""What befalls a process while kernels run: forks, other threads, Ctrl-C, too little memory."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest
import torch

from native.raw import Recipe, run
from regard._native import core


def script(body: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A program of its own, with the best kernels in use."""
    head = f"""
        import sys
        sys.path.insert(0, {str(Path(__file__).parents[1])!r})
        import conftest
        import dataclasses, os, signal, time, torch
        from native.raw import Recipe, run, view
        from regard._native import core
        core.use(core.kernels()[0])
        LONG = Recipe(g=8, q=2048, k=2048, d=64, dv=64)
    """
    text = textwrap.dedent(head) + textwrap.dedent(body)
    return subprocess.run(
        [sys.executable, "-c", text], capture_output=True, text=True, timeout=120, env=os.environ | environment
    )


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_fork_after_use_on_many_threads() -> None:
    done = script(
        """
        recipe = dataclasses.replace(LONG, q=300, k=300)
        first = run(recipe, 3)
        def child():
            again = run(recipe, 3)
            return all(torch.equal(again[name], first[name]) for name in first)
        pid = os.fork()
        if not pid:
            os._exit(0 if child() and child() else 3)
        for _ in range(600):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                break
            time.sleep(0.05)
        else:
            os.kill(pid, signal.SIGKILL)
            sys.exit("the child hangs")
        assert os.waitstatus_to_exitcode(status) == 0
        assert child(), "and the parent goes on"

        import multiprocessing
        with multiprocessing.get_context("fork").Pool(2) as pool:
            assert pool.apply_async(child).get(30)
        """
    )
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.usefixtures("isa")
def test_two_threads_at_once() -> None:
    recipe = Recipe(g=2, repeats=2, q=300, k=600, d=40, dv=24, table="by head")
    recipes = [dataclasses.replace(recipe, seed=i) for i in range(2)]
    expected = [run(r) for r in recipes]
    wrong: list[str] = []

    def work(i: int) -> None:
        for threads in (1, 2, 1, 2, 3):
            got = run(recipes[i], threads)
            wrong.extend(n for n in got if not torch.equal(got[n], expected[i][n]))

    both = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    assert not wrong


def test_other_threads_go_on_during_a_call() -> None:
    call, _, _ = Recipe(g=4, q=2048, k=2048, d=64, dv=64).build()
    ticks: list[float] = []
    over = threading.Event()

    def tick() -> None:
        while not over.wait(0.002):
            ticks.append(time.perf_counter())

    other = threading.Thread(target=tick)
    other.start()
    start = time.perf_counter()
    call.forward(1)
    end = time.perf_counter()
    over.set()
    other.join()
    during = [t for t in ticks if start < t < end]
    assert len(during) >= 3, f"{len(during)} ticks in {end - start:.3f} s"


@pytest.mark.parametrize(
    ("what", "tasks", "threads"),
    [
        ("forward", "short", 1),
        ("backward", "short", 2),
        ("decode", "short", 2),
        ("forward", "long", 1),
        ("backward", "long", 1),
        ("decode", "long", 2),
    ],
)
def test_control_c_ends_a_long_call(what: str, tasks: str, threads: int) -> None:
    # The child presses Ctrl-C itself, 0.15 s into a call that takes several seconds: of thousands of
    # tasks, between which the core asks, or of tasks of a second and more, within which a kernel asks.
    done = script(
        f"""
        import threading, traceback
        what, tasks, threads = {what!r}, {tasks!r}, {threads}
        sizes = {{
            "short forward": dict(q=512, k=512),
            "short backward": dict(g=1, repeats=64, q=64, k=4096),
            "short decode": dict(g=64, repeats=4, q=4, k=4096),
            "long forward": dict(g=16, q=64, k=64, d=256, dv=256),
            "long backward": dict(g=1, repeats=64, q=64, k=4096, bias=(False,) * 4),  # shared: one task
            "long decode": dict(g=32, repeats=4, q=4, k=64, d=256, dv=256),
        }}[tasks + " " + what]
        call, out_grad, _ = dataclasses.replace(LONG, **sizes).build()
        if tasks == "long" and what != "backward":  # one key, again and again
            call.k, call.v = (t[:, :, :1].expand(-1, -1, 2**22, -1) for t in (call.k, call.v))
        else:  # the same for a long batch
            many = 25 if what == "backward" else 200
            call.q, call.k, call.v, out_grad = (
                t.expand(many, -1, -1, -1) for t in (call.q, call.k, call.v, out_grad)
            )
        b, h, _, q, _, _, dv = call.sizes
        made = torch.zeros(b, h, q, dv), torch.zeros(3, b, h, q)
        sent = []
        def send():
            sent.append(time.perf_counter())
            os.kill(os.getpid(), signal.SIGINT)
        # A shell starts what runs in its background with Ctrl-C ignored, and its children inherit that.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        name = "backward" if what == "backward" else "forward"
        real = getattr(core, name)
        def watched(*arguments):  # what is made before the call takes its time too, and is not asked about
            threading.Timer(0.15, send).start()
            return real(*arguments)
        setattr(core, name, watched)
        start = time.perf_counter()
        try:
            call.backward(*made, out_grad, threads=threads) if what == "backward" else call.forward(threads)
        except KeyboardInterrupt as error:
            end = time.perf_counter()
            where = traceback.extract_tb(error.__traceback__)[-1]
            assert where.name == "watched", f"Ctrl-C came outside of the call: {{where}}"
            print(f"{{end - sent[0]:.3f}}")
        else:
            print(f"the call was over after {{time.perf_counter() - start:.3f}} s")
        setattr(core, name, real)
        small = dataclasses.replace(LONG, q=70, k=70)
        assert run(small)["out"].isfinite().all(), "and the next call is none the worse"
        """
    )
    assert done.returncode == 0, done.stderr[-2000:]
    late = float(done.stdout)
    print(f"{what} on {threads} threads ended {late:.3f} s after Ctrl-C; 0.2 s are promised")
    assert late < 1.0


NEEDS_MEMORY = {
    "keys that are widened": """
        call = dataclasses.replace(LONG, q=70, k=100_000, dtype=torch.bfloat16).build()[0]
        out = torch.zeros(1, 8, 70, 64, dtype=torch.bfloat16)
        attempt(64, lambda: forward(call, out))
        """,
    "a table with zeros at its end": """
        call = Recipe(q=5, k=2**23, d=1, dv=1, table="shared").build()[0]
        out = torch.zeros(1, 1, 5, 1)
        attempt(16, lambda: forward(call, out))
        """,
    "parts of the keys": """
        call = Recipe(repeats=16, q=1, k=64, d=8, dv=256).build()[0]
        call.q, call.k, call.v = (batch(t) for t in (call.q, call.k, call.v))
        out = batch(torch.zeros(1, 16, 1, 256))
        attempt(32, lambda: forward(call, out))
        """,
    "sums of the backward": """
        call, out_grad, _ = Recipe(q=64, k=64, d=40, dv=8).build()
        call.q, call.k, call.v, out_grad = (batch(t) for t in (call.q, call.k, call.v, out_grad))
        out, rows, delta = batch(torch.zeros(1, 1, 64, 8)), torch.zeros(3, 4000, 64), torch.zeros(4000, 64)
        grads = [batch(torch.zeros(1, 1, 64, width)) for width in (40, 40, 8)]
        attempt(32, lambda: core.backward(
            call.core(), view(out), view(out_grad), rows.data_ptr(), 0, delta.data_ptr(),
            *(view(t) for t in grads), 0, None, None, 1,
        ) or True)
        """,
    "a thread's scratch": """
        call = Recipe(q=64, k=300, d=256, dv=256).build()[0]
        out = torch.zeros(1, 1, 64, 256)
        attempt(0, lambda: forward(call, out))
        """,
}


@pytest.mark.skipif(sys.platform != "linux", reason="limits of addresses are Linux's here")
@pytest.mark.parametrize("what", NEEDS_MEMORY)
def test_no_memory_is_an_error_that_can_be_caught(what: str) -> None:
    head = """
        import resource
        def batch(t):  # the same 4000 times
            return t.expand(4000, -1, -1, -1)
        def forward(call, out):
            return core.forward(call.core(), view(out), 0, None, 1)
        def attempt(room, call):  # with so many MiB that are still free, then with all
            used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used + (room << 20), -1))
            try:
                call()
            except MemoryError:
                print("caught")
            resource.setrlimit(resource.RLIMIT_AS, (-1, -1))
            assert call()
        """
    # Below this threshold malloc takes from what it has; the smallest that is to fail is 700 KiB.
    done = script(head + NEEDS_MEMORY[what], MALLOC_MMAP_THRESHOLD_=str(64 << 10))
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split() == ["caught"]


# ------------------------------------------------------------------ which kernels run


@pytest.mark.parametrize("requested", ["portable", "sse9"])
def test_regard_isa_names_the_kernels_or_is_refused_with_a_reason(requested: str) -> None:
    done = script(
        """
        from regard.backends import native
        core.use(core.kernels()[0])
        reason = native.available()
        print(core.isa(), reason)
        """,
        REGARD_ISA=requested,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    if requested in core.kernels():
        assert done.stdout == f"{requested} None\n"
    else:
        allowed = ", ".join(core.kernels())
        reason = f"REGARD_ISA={requested}: no kernels for '{requested}' here; allowed: {allowed}"
        assert done.stdout == f"{core.kernels()[0]} {reason}\n"
