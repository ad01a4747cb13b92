"""Text encoders: protocol, cache on disk (SQLite, LRU), opening of a bundle's one, embedding of descriptions."""

from __future__ import annotations

import hashlib
import sqlite3
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Annotated, Protocol, runtime_checkable

import numpy as np
from annotated_types import Len, MinLen
from numpy.typing import NDArray
from pydantic import StringConstraints, TypeAdapter, ValidationError

from ram_backend.errors import TextEncoderUnavailable, VocabularyError
from ram_backend.settings import Settings
from ram_backend.vocabulary.tags import first_error, read_text

Rows = NDArray[np.float32]
_Text = Annotated[str, StringConstraints(pattern=r"\S")]
_Descriptions = Annotated[list[Annotated[dict[_Text, Annotated[list[_Text], MinLen(1)]], Len(1, 1)]], MinLen(1)]
SPECS = ("minilm", "clip-vit-b-16")

_FILE = "text-embeddings.sqlite"
_DAY_S = 86_400
_LOCK_WAIT_S = 30.0
_USED_BYTES = (
    "SELECT (page_count - freelist_count) * page_size FROM pragma_page_count, pragma_freelist_count, pragma_page_size"
)
_EVICT = """DELETE FROM embedding WHERE rowid IN (
    SELECT rowid FROM embedding ORDER BY used, rowid LIMIT max(1, (SELECT count(*) / 4 FROM embedding)))"""


@runtime_checkable
class TextEncoder(Protocol):
    """Turns texts into embeddings.

    Attributes:
        id: identity of weights and recipe; equal ids give equal embeddings.
        dim: width of a row.
    """

    id: str
    dim: int

    def embed(self, texts: Sequence[str]) -> Rows:
        """Embeds tags: (len(texts), dim) float32, rows of length 1, prompts already averaged."""
        ...

    def embed_sentences(self, sentences: Sequence[str]) -> Rows:
        """Embeds sentences as they are: (len(sentences), dim) float32, rows of length 1."""
        ...


class CachedTextEncoder:
    """A text encoder that remembers on disk what it has embedded.

    Rows are kept in one SQLite file (WAL), keyed by the encoder's id and the text; several processes may use it at
    once. A damaged file is replaced; where nothing can be written, embedding goes on without remembering. Rows that
    were used least recently go when the file is full.
    """

    def __init__(self, encoder: TextEncoder, directory: Path, max_bytes: int) -> None:
        """Takes the encoder behind the cache; the directory is made on the first write.

        Args:
            encoder: asked for what is not remembered.
            directory: of the cache file, which all encoders share.
            max_bytes: size that the file may have; 0: remember nothing.
        """
        self._encoder = encoder
        self._path = directory / _FILE
        self._max_bytes = max_bytes
        self.id = encoder.id
        self.dim = encoder.dim

    def embed(self, texts: Sequence[str]) -> Rows:
        """Embeds tags, each distinct one at most once: (len(texts), dim) float32, rows of length 1."""
        return self._remembered("tag", texts, self._encoder.embed)

    def embed_sentences(self, sentences: Sequence[str]) -> Rows:
        """Embeds sentences as they are: (len(sentences), dim) float32, rows of length 1."""
        return self._remembered("sentence", sentences, self._encoder.embed_sentences)

    def _remembered(self, kind: str, texts: Sequence[str], embed: Callable[[Sequence[str]], Rows]) -> Rows:
        keys = {text: self._key(kind, text) for text in texts}
        known = self._read(keys.values())
        missing = [text for text, key in keys.items() if key not in known]
        if missing:
            rows = np.asarray(embed(missing), dtype=np.float32)
            fresh = {keys[text]: row for text, row in zip(missing, rows, strict=True)}
            self._write(fresh)
            known.update(fresh)
        return np.array([known[keys[text]] for text in texts], dtype=np.float32).reshape(len(texts), self.dim)

    def _key(self, kind: str, text: str) -> bytes:
        return hashlib.sha256("\0".join((self.id, kind, text)).encode("utf-8", "surrogatepass")).digest()

    def _read(self, keys: Iterable[bytes]) -> dict[bytes, Rows]:
        """Rows that are there and have the right width; their day of use is set where it has changed."""
        found: dict[bytes, Rows] = {}
        today = int(time.time() // _DAY_S)

        def work(connection: sqlite3.Connection) -> None:
            stale = []
            for key in keys:
                stored = connection.execute("SELECT row, used FROM embedding WHERE key = ?", (key,)).fetchone()
                if stored and isinstance(stored[0], bytes) and len(stored[0]) == 4 * self.dim:
                    found[key] = np.frombuffer(stored[0], dtype="<f4").astype(np.float32)
                    if stored[1] != today:
                        stale.append((today, key))
            if stale:
                connection.executemany("UPDATE embedding SET used = ? WHERE key = ?", stale)

        if self._max_bytes and self._path.is_file():
            self._transaction(work)
        return found

    def _write(self, rows: dict[bytes, Rows]) -> None:
        """Adds rows, then evicts the least recently used, a quarter at a time, until the file's used pages fit."""
        today = int(time.time() // _DAY_S)

        def work(connection: sqlite3.Connection) -> None:
            connection.executemany(
                "INSERT OR REPLACE INTO embedding (key, row, used) VALUES (?, ?, ?)",
                [(key, np.ascontiguousarray(row, dtype="<f4").tobytes(), today) for key, row in rows.items()],
            )
            while connection.execute(_USED_BYTES).fetchone()[0] > self._max_bytes:
                if not connection.execute(_EVICT).rowcount:
                    break

        if self._max_bytes:
            self._transaction(work)

    def _transaction(self, work: Callable[[sqlite3.Connection], None]) -> None:
        """Runs `work` in one transaction; embedding goes on whatever is wrong with the file."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with closing(sqlite3.connect(self._path, timeout=_LOCK_WAIT_S)) as connection:
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute("PRAGMA synchronous = NORMAL")
                connection.execute(
                    "CREATE TABLE IF NOT EXISTS embedding (key BLOB NOT NULL UNIQUE, row BLOB NOT NULL, used INTEGER)"
                )
                with connection:
                    work(connection)
        except (sqlite3.OperationalError, OSError):
            return  # locked for long, read-only or full
        except sqlite3.DatabaseError:  # no database any more: the next use makes a new one
            with suppress(OSError):
                for suffix in ("", "-wal", "-shm"):
                    self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)


def load_descriptions(path: Path) -> dict[str, list[str]]:
    """Reads RAM++'s tag descriptions as its authors publish them: a JSON list of objects `{tag: [sentence, ...]}`.

    Returns:
        Tag -> its sentences, in the file's order; the number of sentences may differ from tag to tag.

    Raises:
        VocabularyError: the file can't be read or is no such list; names the file and the entry.
    """
    try:
        entries = TypeAdapter(_Descriptions).validate_json(read_text(path), strict=True)
    except ValidationError as error:
        raise VocabularyError(
            f"{path}: not a list of objects {{tag: [sentence, ...]}} ({first_error(error)}). Repair it."
        ) from None
    descriptions: dict[str, list[str]] = {}
    for number, entry in enumerate(entries, start=1):
        for tag in entry.keys() & descriptions.keys():
            raise VocabularyError(f"{path}, entry {number}: {tag!r} has come before. Keep one entry per tag.")
        descriptions |= entry
    return descriptions


def embed_descriptions(encoder: TextEncoder, descriptions: Mapping[str, Sequence[str]]) -> dict[str, Rows]:
    """Embeds every sentence on its own: they are not averaged, RAM++ weighs them by the image.

    Args:
        encoder: of the bundle; what is too long for it is cut off.
        descriptions: tag -> its sentences; one sentence makes the tag as RAM would have it.

    Returns:
        Tag -> (k, dim) float32, rows of length 1, in the order of its sentences.
    """
    rows = encoder.embed_sentences([sentence for sentences in descriptions.values() for sentence in sentences])
    ends = np.cumsum([0, *map(len, descriptions.values())])
    return {tag: rows[start:end] for tag, start, end in zip(descriptions, ends[:-1], ends[1:], strict=True)}


def open_text_encoder(spec: str, settings: Settings) -> TextEncoder:
    """Opens the text encoder that a bundle names, behind the cache on disk.

    Args:
        spec: one of `SPECS`.
        settings: `cache_dir` and `text_cache_bytes` (the cache), `clip_weights` and `device` (CLIP), threads.

    Raises:
        TextEncoderUnavailable: it isn't known, or its weights are not at hand; the message says what to do.
    """
    encoder: TextEncoder
    if spec == "minilm":
        from ram_backend.vocabulary.minilm import MiniLMTextEncoder

        encoder = MiniLMTextEncoder(settings.cache_dir / "text-encoders", threads=settings.cpu_threads())
    elif spec == "clip-vit-b-16":
        from ram_backend.vocabulary.clip_text import load_clip_text_encoder

        encoder = load_clip_text_encoder(settings.clip_weights, device=settings.device)
    else:
        raise TextEncoderUnavailable(f"Unknown text encoder {spec!r}. Known are: {', '.join(SPECS)}.")
    return CachedTextEncoder(encoder, settings.cache_dir / "text", settings.text_cache_bytes)
