"""Terminal input and output of the commands."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ram_backend.errors import InputError

out = Console(highlight=False, soft_wrap=True)
notes = Console(stderr=True, highlight=False, soft_wrap=True)

MAX_WIDTH = 2000
"""Columns of a table that isn't shown in a terminal, at most."""

AsJson = Annotated[bool, typer.Option("--json", help="JSON.")]
PROGRESS_INTERVAL_S = 5.0
"""Seconds between two lines of progress where no terminal shows it."""

JsonLines = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]


def printable(text: str) -> str:
    """Text with the bytes of file names that are not UTF-8 escaped as in JSON."""
    return text.encode("utf-8", "backslashreplace").decode()


def print_json(*values: Any, indent: int | None = None) -> None:
    """Prints each value as JSON."""
    for value in values:
        typer.echo(printable(json.dumps(value, ensure_ascii=False, indent=indent)))


def print_rows(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Prints rows as a table without lines; no columns: without heads.

    A file or a pipe gets each row as one line.
    """
    table = Table(*columns, box=None, pad_edge=False, show_header=bool(columns))
    for row in rows:
        table.add_row(*(Text(cell, overflow="fold") for cell in row))
    out.print(table, width=None if out.is_terminal else MAX_WIDTH)


@contextmanager
def progress(text: str) -> Iterator[Callable[..., None]]:
    """Gives a function that shows a stage, and its step of how many steps.

    In a terminal it is one line, elsewhere one every few seconds.
    """
    printed, at = "", -math.inf

    def show(stage: str, step: int = 0, steps: int = 0) -> None:
        nonlocal printed, at
        news = f"{stage} {step:,}/{steps:,}" if steps else stage
        if notes.is_terminal:
            status.update(Text(news))
        elif news != printed and time.monotonic() - at > PROGRESS_INTERVAL_S:
            printed, at = news, time.monotonic()
            notes.print(news, markup=False)

    with notes.status(Text(text)) as status:
        yield show


def read_text(path: Path, expected: str) -> str:
    """Reads a text file in UTF-8, or raises InputError that says what is `expected`."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise InputError(f"{path} can't be read ({reason}): {expected}.") from None


def check_folder_of(path: Path, *, option: str = "--out") -> None:
    """Checks early that a file can be written; raises InputError where it can't."""
    if path.is_dir():
        raise InputError(f"{option} {path}: is a folder: name a file in it.")
    if not path.parent.is_dir():
        raise InputError(f"{option} {path}: the folder {path.parent} does not exist: create it first.")


@contextmanager
def written_whole(path: Path) -> Iterator[BinaryIO]:
    """A file to write, which appears whole or not at all; raises InputError."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            yield file
        partial.replace(path)
    except OSError as error:
        raise InputError(f"{path} can't be written ({error.strerror}): choose another file.") from None
    finally:
        partial.unlink(missing_ok=True)
