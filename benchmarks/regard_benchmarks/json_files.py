"""The results of a run as a JSON file."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from regard.errors import OptionError
from regard.system.atomic_files import write_text
from regard_benchmarks.cases import Case
from regard_benchmarks.goals import GoalResult, goal_results
from regard_benchmarks.measure import CaseResult, Timing

Machine = dict[str, str]
"""The machine and the software of a run."""


def write_results(path: Path, machine: Machine, results: Sequence[CaseResult]) -> None:
    """Write all results, and how they meet the goals."""
    whole = {
        "machine": machine,
        "goals": [_goal_to_json(result) for result in goal_results(results)],
        "rows": [_to_json(result) for result in results],
    }
    write_text(json.dumps(whole, indent=1, ensure_ascii=False) + "\n", path)


def read_results(path: Path) -> tuple[Machine, list[CaseResult]]:
    """Read what `write_results` wrote."""
    try:
        whole = json.loads(path.read_text(encoding="utf-8"))
        return whole["machine"], [_from_json(entry) for entry in whole["rows"]]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise OptionError(
            "--from", str(path), "a file that --json wrote", f"Measure again ({type(error).__name__}: {error})."
        ) from error


def _goal_to_json(result: GoalResult) -> dict[str, Any]:
    """Under the keys of the file format, in which the value is `found`."""
    fields = dataclasses.asdict(result)
    return {"found" if key == "value" else key: content for key, content in fields.items()}


def _to_json(result: CaseResult) -> dict[str, Any]:
    return {
        "name": result.case.name,
        "case": {**dataclasses.asdict(result.case), "dtype": result.case.kind},
        "timings": {
            name: {"seconds": timing.seconds, "spread": timing.spread, "once": timing.once, "turns": timing.turns}
            for name, timing in result.timings.items()
        },
        "extra_bytes": result.extra_bytes,
        "ceiling": result.ceiling,
        "reasons": result.reasons,
    }


def _from_json(entry: dict[str, Any]) -> CaseResult:
    lists = {key: tuple(value) for key, value in entry["case"].items() if isinstance(value, list)}
    case = Case(**{**entry["case"], **lists, "dtype": getattr(torch, entry["case"]["dtype"])})
    timings = {name: Timing(tuple(t["turns"])) for name, t in entry["timings"].items()}
    return CaseResult(case, timings, entry["extra_bytes"], entry["reasons"], entry["ceiling"])
