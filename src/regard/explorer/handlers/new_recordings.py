"""New recordings: of texts, in jobs, and of arrays that are uploaded."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from starlette.requests import Request

from regard.explorer import uploads
from regard.explorer.handlers.recordings import MOST_TEXT, NoParameters
from regard.explorer.recording_jobs import Job
from regard.explorer.request_parameters import FlagKind, NumberKind, TextKind, in_path, in_query
from regard.explorer.responses import Pending, ProgressReport
from regard.explorer.state import Explorer
from regard.models import EMBEDDED
from regard.recording.cached import cached_array_recording


@dataclass(frozen=True, kw_only=True)
class JobParameters:
    """One job."""

    job: str = in_path(TextKind(), "as POST /api/open returns it")


@dataclass(frozen=True, kw_only=True)
class ArraysParameters:
    """What an uploaded file does not say."""

    causal: bool = in_query(FlagKind(), "whether keys after the query are masked", False)
    scale: float | None = in_query(NumberKind("1/√d"), "what q·k is multiplied with; 1/√d by default")
    name: str = in_query(TextKind(MOST_TEXT), "of the recording", "arrays")


class ModelLine(TypedDict):
    """A model that may record texts, and where it comes from."""

    name: str
    description: str


class Models(TypedDict):
    """The models that may record texts."""

    models: list[ModelLine]
    default: str


class JobResult(TypedDict):
    """A job that is done, and the ID of its recording."""

    job: str
    id: str


class JobProgress(ProgressReport):
    """A job that runs."""

    job: str


class JobCancelled(TypedDict):
    """A job, and whether it still ran when it was cancelled."""

    job: str
    cancelled: bool


class NewRecording(TypedDict):
    """The ID of a recording that was opened."""

    id: str


async def list_models(explorer: Explorer, parameters: NoParameters, request: Request) -> Models:
    jobs = explorer.jobs
    return {
        "models": [
            {
                "name": name,
                "description": "the embedded model of Python code" if name == EMBEDDED else "named on the command line",
            }
            for name in jobs.models
        ],
        "default": jobs.default,
    }


async def record_text(explorer: Explorer, parameters: NoParameters, request: Request) -> Pending:
    body = await uploads.read_body(request, "application/json", uploads.MOST_JSON)
    text, model = uploads.parse_text(body)
    return _progress(explorer.jobs.start(text, explorer.jobs.default if model is None else model))


async def get_job(explorer: Explorer, parameters: JobParameters, request: Request) -> JobResult | Pending:
    job = explorer.jobs.job(parameters.job)
    recording_id = job.outcome()
    return _progress(job) if recording_id is None else {"job": job.id, "id": recording_id}


async def cancel_job(explorer: Explorer, parameters: JobParameters, request: Request) -> JobCancelled:
    job = explorer.jobs.job(parameters.job)
    return {"job": job.id, "cancelled": job.cancel()}


async def open_arrays(explorer: Explorer, parameters: ArraysParameters, request: Request) -> NewRecording:
    name, causal, scale = parameters.name, parameters.causal, parameters.scale
    with tempfile.TemporaryDirectory(dir=uploads.folder()) as folder:
        file = Path(folder) / "arrays"
        await uploads.write_file(request, file)
        recording = await explorer.run(request, lambda check: cached_array_recording(file, name, causal, scale))
    return {"id": explorer.add(recording, name)}


def _progress(job: Job) -> Pending:
    now = job.progress
    return Pending(JobProgress(job=job.id, progress=now.progress, doing=now.doing))
