"""Work in a few threads, for which a bounded number of requests wait, and which ends when nobody waits."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from regard.explorer.http_errors import HttpError

Made = TypeVar("Made")

MOST_REQUESTS = 200
"""Requests that may be at work or wait for it."""


class Disconnected(Exception):
    """Nobody waits for the answer any more."""


class WorkQueue:
    """Threads for the requests' work; kernels leave Python to the others while they run."""

    def __init__(self, threads: int) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="regard-explore")
        self.waiting = 0
        """Requests at work or waiting for it."""
        self.cancelled = 0
        """How many ended before their work did."""

    async def run(self, job: Callable[[Callable[[], None]], Made], gone: Callable[[], Awaitable[None]]) -> Made:
        """What a job gives, done in a thread.

        Args:
            job: Is given a function to call between blocks of work: it raises `Disconnected` when nobody waits.
            gone: Returns when nobody waits.

        Raises:
            HttpError: too many wait.
            Disconnected: nobody waits.
        """
        if self.waiting >= MOST_REQUESTS:
            raise HttpError(
                429, "requests", f"{self.waiting} at once", f"{MOST_REQUESTS} that wait", "Ask again in a moment."
            )
        stop = threading.Event()

        def check() -> None:
            if stop.is_set():
                raise Disconnected

        def done() -> Made:
            check()
            return job(check)

        self.waiting += 1
        leaving = asyncio.ensure_future(gone())
        working = asyncio.ensure_future(asyncio.get_running_loop().run_in_executor(self._pool, done))
        working.add_done_callback(self._less)
        try:
            await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                raise Disconnected
            return working.result()
        except (Disconnected, asyncio.CancelledError):
            self.cancelled += 1
            raise
        finally:
            stop.set()
            leaving.cancel()

    def close(self) -> None:
        """Let what is under way end, and begin nothing more."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _less(self, working: asyncio.Future[object]) -> None:
        self.waiting -= 1
        if not working.cancelled():
            working.exception()  # seen: where nobody waits, nobody else asks for it
