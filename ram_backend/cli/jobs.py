"""`ram-backend jobs`: what is asked for, what is being done and how far it is, what came of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from ram_backend.settings import load_settings


def jobs(
    project: Annotated[str | None, typer.Option(help="Only of this project: its number, or as `list` says.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """List trainings, pre-labellings and what follows them: open ones first, then the latest."""
    from ram_backend.database.migrate import open_migrated
    from ram_backend.jobs.queue import JobQueue
    from ram_backend.projects.keys import select
    from ram_backend.projects.table import ProjectTable

    database = open_migrated(load_settings())
    key = None
    if project is not None:
        key = select([each.key for each in ProjectTable(database).changes().projects], project)
    found = [job.to_json() for job in JobQueue(database).jobs(key, limit=limit)]
    if as_json:
        for each in found:
            typer.echo(json.dumps(each, ensure_ascii=False))
        return
    if not found:
        typer.echo("No jobs yet: press Start Training in Label Studio, or use `ram-backend train PROJECT`.")
        return
    for each in found:
        asked = f"{each['requested_at'][:19].replace('T', ' ')}, {each['reason']}"
        typer.echo(f"{each['job'][:8]}  {each['kind']} of project {each['project']}: {progress_of(each)}  ({asked})")
        if each["message"]:
            typer.echo(f"    {each['message']}")


def progress_of(job: Mapping[str, Any]) -> str:
    """State, verdict, or stage and step, in a few words."""
    if job["state"] == "requested":
        return "waiting for a worker" if job["attempt"] == 0 else f"waiting after attempt {job['attempt']}"
    if job["state"] != "running":
        verdict = job["verdict"]
        return f"{job['state']}: {verdict.replace('_', ' ')}" if verdict else str(job["state"])
    said = str(job["stage"] or "beginning")
    if job["steps"]:
        said += f" {job['step']}/{job['steps']}"
    return said
