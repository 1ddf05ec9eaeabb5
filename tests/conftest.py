"""What every test shares: one thread, repeatable examples, small chunks on request."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterator

# The error budget compares with the plain formula's rounding, which must not depend on the machine: MKL orders the sums
# of a matrix product by processor, unless it is told to use one code path. Its path for AVX2 on Intel's processors and
# the one compatible with all are closer to float64 by luck in a gradient of few numbers.
os.environ.setdefault("MKL_CBWR", "AVX512")

import pytest
import torch
from hypothesis import HealthCheck, settings
from jaxtyping import config as jaxtyping_config

# REGARD_CORE=/path/to/core.so tests another build of the core than the installed one: `make sanitize` does.
if CORE := os.environ.get("REGARD_CORE"):
    spec = importlib.util.spec_from_file_location("regard._native.core", CORE)
    assert spec is not None, f"REGARD_CORE={CORE}"
    assert spec.loader is not None, f"REGARD_CORE={CORE}"
    sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[spec.name])

from regard._native import core
from regard.backends import chunked
from regard.lowering import tiles

torch.set_num_threads(1)  # tensors are small here: threads would only wait for each other

settings.register_profile(
    "repeatable",
    deadline=None,
    max_examples=40,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.register_profile("search", settings.get_profile("repeatable"), max_examples=2000, derandomize=False)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device, and this machine has none"))


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many blocks of queries, runs of keys and groups of heads, even in a small call."""
    shrink(monkeypatch)


def shrink(monkeypatch: pytest.MonkeyPatch) -> None:
    # Signatures are checked in full-size calls; here their checks would take most of the time.
    monkeypatch.setattr(jaxtyping_config, "jaxtyping_disable", True)
    monkeypatch.setattr(chunked, "BUDGET", 1 << 10)
    monkeypatch.setattr(chunked, "LEAST_ROWS", 4)
    monkeypatch.setattr(chunked, "GOOD_ROWS", 8)
    monkeypatch.setattr(chunked, "MOST_ROWS", 8)
    monkeypatch.setattr(tiles, "KEYS", 8)


@pytest.fixture
def as_users_run_it() -> Iterator[None]:
    """Without the run-time shape checks of the tests, which would raise before regard's own errors."""
    jaxtyping_config.update("jaxtyping_disable", True)
    yield
    jaxtyping_config.update("jaxtyping_disable", False)


@pytest.fixture
def any_isa() -> Iterator[None]:
    """Restores the instruction set that was in use."""
    used = core.isa()
    yield
    core.use(used)


@pytest.fixture(params=core.kernels())
def isa(request: pytest.FixtureRequest, any_isa: None) -> str:
    """Each available instruction set, in use."""
    core.use(request.param)
    return request.param


@pytest.fixture
def built_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """The built page of the explorer: no test builds it."""
    from regard.export import front_end

    if not (front_end.STATIC / "assets" / front_end.WORKER).is_file():
        pytest.skip("the explorer's page is not built: make web")
    monkeypatch.setattr(front_end, "_fresh", lambda: True)
