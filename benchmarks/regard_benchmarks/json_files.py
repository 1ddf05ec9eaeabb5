"""Figures as JSON, and back."""

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
from regard_benchmarks.goals import verdicts
from regard_benchmarks.measure import Row, Timing

Machine = dict[str, str]


def write(path: Path, machine: Machine, rows: Sequence[Row]) -> None:
    """All figures, and what they come to."""
    whole = {
        "machine": machine,
        "goals": [dataclasses.asdict(verdict) for verdict in verdicts(rows)],
        "rows": [_plain(row) for row in rows],
    }
    write_text(json.dumps(whole, indent=1, ensure_ascii=False) + "\n", path)


def read(path: Path) -> tuple[Machine, list[Row]]:
    """What `write` wrote."""
    try:
        whole = json.loads(path.read_text(encoding="utf-8"))
        return whole["machine"], [_row(entry) for entry in whole["rows"]]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise OptionError(
            "--from", str(path), "a file that --json wrote", f"Measure again ({type(error).__name__}: {error})."
        ) from error


def _plain(row: Row) -> dict[str, Any]:
    return {
        "name": row.case.name,
        "case": {**dataclasses.asdict(row.case), "dtype": row.case.kind},
        "timings": {
            name: {"seconds": timing.seconds, "spread": timing.spread, "once": timing.once, "turns": timing.times}
            for name, timing in row.timings.items()
        },
        "extra_bytes": row.extra_bytes,
        "ceiling": row.ceiling,
        "reasons": row.reasons,
    }


def _row(entry: dict[str, Any]) -> Row:
    lists = {key: tuple(value) for key, value in entry["case"].items() if isinstance(value, list)}
    case = Case(**{**entry["case"], **lists, "dtype": getattr(torch, entry["case"]["dtype"])})
    timings = {name: Timing(tuple(t["turns"])) for name, t in entry["timings"].items()}
    return Row(case, timings, entry["extra_bytes"], entry["reasons"], entry["ceiling"])
