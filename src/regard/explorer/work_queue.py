"""Threads for the work of requests: a bounded number of them wait, and work ends when its client disconnects."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from regard.explorer.http_errors import HttpError

Result = TypeVar("Result")

MOST_REQUESTS = 200
"""Requests that may be at work or wait for it."""


class Disconnected(Exception):
    """The client no longer waits for the response."""


class WorkQueue:
    """Threads for the requests' work. Kernels release Python's lock while they run."""

    def __init__(self, threads: int) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="regard-explore")
        self.waiting = 0
        """Requests at work or waiting for it."""
        self.cancelled = 0
        """How many clients disconnected before their work was done."""

    async def run(
        self, job: Callable[[Callable[[], None]], Result], disconnected: Callable[[], Awaitable[None]]
    ) -> Result:
        """The result of a job, run in a thread.

        Args:
            job: Is given a function to call between blocks of work, which raises `Disconnected` if the client is gone.
            disconnected: Returns when the client has disconnected.

        Raises:
            HttpError: too many requests wait.
            Disconnected: the client no longer waits.
        """
        if self.waiting >= MOST_REQUESTS:
            raise HttpError(
                429, "requests", f"{self.waiting} at once", f"{MOST_REQUESTS} that wait", "Ask again in a moment."
            )
        stop = threading.Event()

        def check() -> None:
            if stop.is_set():
                raise Disconnected

        def run_job() -> Result:
            check()
            return job(check)

        self.waiting += 1
        leaving = asyncio.ensure_future(disconnected())
        working = asyncio.ensure_future(asyncio.get_running_loop().run_in_executor(self._pool, run_job))
        working.add_done_callback(self._on_done)
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
        """Wait for the jobs that run, and start no more."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _on_done(self, working: asyncio.Future[object]) -> None:
        self.waiting -= 1
        if not working.cancelled():
            working.exception()  # retrieved: asyncio would log it where nobody awaits the job
