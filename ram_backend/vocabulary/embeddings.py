"""Text encoders: their protocol, their cache on disk (SQLite, LRU), and how a bundle's one is opened."""

from __future__ import annotations

import hashlib
import sqlite3
import time
import zlib
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ram_backend.errors import TextEncoderUnavailable
from ram_backend.settings import Settings

Rows = NDArray[np.float32]
SPECS = ("minilm", "clip-vit-b-16")

_FILE = "text-embeddings.sqlite"
_DAY_S = 86_400
_LOCK_WAIT_S = 30.0
_KEYS_PER_QUERY = 500


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

    Rows are kept in one SQLite file (WAL), keyed by the encoder's id and the text, each with a checksum; several
    processes may use it at once. A damaged row is embedded and written again; a damaged file is replaced; where nothing
    can be written, embedding goes on without remembering. Rows that were used least recently go when the file is full.
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
        known = self._read(list(keys.values()))
        missing = [text for text, key in keys.items() if key not in known]
        if missing:
            rows = np.asarray(embed(missing), dtype=np.float32)
            fresh = {keys[text]: row for text, row in zip(missing, rows, strict=True)}
            self._write(fresh)
            known.update(fresh)
        result = np.empty((len(texts), self.dim), dtype=np.float32)
        for place, text in enumerate(texts):
            result[place] = known[keys[text]]
        return result

    def _key(self, kind: str, text: str) -> bytes:
        return hashlib.sha256("\0".join((self.id, kind, text)).encode("utf-8", "surrogatepass")).digest()

    def _read(self, keys: Sequence[bytes]) -> dict[bytes, Rows]:
        """Rows that are there and whole; their day of use is set where it has changed."""
        found: dict[bytes, Rows] = {}
        today = int(time.time() // _DAY_S)

        def work(connection: sqlite3.Connection) -> None:
            stale = []
            for start in range(0, len(keys), _KEYS_PER_QUERY):
                part = keys[start : start + _KEYS_PER_QUERY]
                marks = ",".join("?" * len(part))
                query = f"SELECT key, row, used FROM embedding WHERE key IN ({marks})"
                for key, stored, used in connection.execute(query, part):
                    row = _unpacked(stored, self.dim)
                    if row is not None:
                        found[key] = row
                        if used != today:
                            stale.append((today, key))
            if stale:
                connection.executemany("UPDATE embedding SET used = ? WHERE key = ?", stale)

        if self._max_bytes and self._path.is_file():
            self._transaction(work)
        return found

    def _write(self, rows: dict[bytes, Rows]) -> None:
        """Adds rows, then drops the least recently used until the file's used pages fit."""
        today = int(time.time() // _DAY_S)

        def work(connection: sqlite3.Connection) -> None:
            connection.executemany(
                "INSERT OR REPLACE INTO embedding (key, row, used) VALUES (?, ?, ?)",
                [(key, _packed(row), today) for key, row in rows.items()],
            )
            count = connection.execute("SELECT count(*) FROM embedding").fetchone()[0]
            while count and _used_bytes(connection) > self._max_bytes:
                connection.execute(
                    "DELETE FROM embedding WHERE rowid IN (SELECT rowid FROM embedding ORDER BY used, rowid LIMIT ?)",
                    (max(1, count // 4),),
                )
                count = connection.execute("SELECT count(*) FROM embedding").fetchone()[0]

        if self._max_bytes:
            self._transaction(work)

    def _transaction(self, work: Callable[[sqlite3.Connection], None]) -> None:
        """Runs `work` in one transaction; whatever goes wrong with the file is no reason not to embed."""
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
        except sqlite3.DatabaseError:
            self._drop_file()

    def _drop_file(self) -> None:
        for suffix in ("", "-wal", "-shm"):
            try:
                self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)
            except OSError:
                return


def _packed(row: Rows) -> bytes:
    data = np.ascontiguousarray(row, dtype="<f4").tobytes()
    return zlib.crc32(data).to_bytes(4, "little") + data


def _unpacked(stored: Any, dim: int) -> Rows | None:
    """The row, or None where it is damaged."""
    if not isinstance(stored, bytes) or len(stored) != 4 + 4 * dim:
        return None
    if zlib.crc32(stored[4:]) != int.from_bytes(stored[:4], "little"):
        return None
    row = np.frombuffer(stored, dtype="<f4", offset=4).astype(np.float32)
    return row if np.isfinite(row).all() else None


def _used_bytes(connection: sqlite3.Connection) -> int:
    pages, free, size = (
        connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
    )
    return int((pages - free) * size)


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
