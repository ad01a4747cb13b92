"""On-disk LRU cache of checksummed files, shared by threads and processes.

A file is written once and never changed: every process gets the first content
stored under a name. A damaged file counts as missing. Disk errors are logged,
not raised: losing the cache only costs time.
"""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
import threading
from contextlib import suppress
from pathlib import Path

_MAGIC = b"RAMTOK2\n"
_HEAD = len(_MAGIC) + 32

_log = logging.getLogger(__name__)


class DiskCache:
    """Contents by name.

    Args:
        folder: where the files are; made when the first one is written.
        max_bytes: size of all files together, held to within some percent;
            those not used for longest go first. 0: nothing is kept.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._written: int | None = None  # bytes since the last check of the folder's size
        self._warned = False

    def get(self, name: str) -> bytes | None:
        """The content stored under a name; None where it is missing or damaged."""
        path = self._path(name)
        try:
            data = path.read_bytes()
        except OSError:
            return None
        content = data[_HEAD:]
        intact = data[:_HEAD] == _MAGIC + hashlib.sha256(content).digest()
        if not intact:
            _log.warning("The cached file %s is damaged: it is made again.", path)
        with suppress(OSError):  # it was removed meanwhile, or is read-only
            os.utime(path) if intact else path.unlink()
        return content if intact else None

    def put(self, name: str, content: bytes) -> bytes:
        """Stores content unless there is some; returns what is stored."""
        data = _MAGIC + hashlib.sha256(content).digest() + content
        if len(data) > self._max_bytes:
            return content
        try:
            earlier = self.get(name) or self._write(name, data)
            self._evict(len(data))
        except OSError as error:
            if not self._warned:
                self._warned = True
                _log.warning("Nothing can be cached in %s (%s): everything is recomputed.", self._folder, error)
            return content
        return earlier or content

    def files(self, prefix: str) -> list[Path]:
        """The files whose names begin with `prefix`, of at least two characters."""
        return list((self._folder / prefix[:2]).glob(f"{prefix}*"))

    def _path(self, name: str) -> Path:
        return self._folder / name[:2] / name

    def _write(self, name: str, data: bytes) -> bytes | None:
        """Creates the file atomically; returns what another process stored first."""
        path = self._path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as file:
            file.write(data)
        part = Path(file.name)
        try:
            path.hardlink_to(part)  # a rename would replace another one
        except FileExistsError:
            return self.get(name)
        except OSError:  # a file system without hard links
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
        return None

    def _evict(self, written: int) -> None:
        """Now and then removes the least recently used files of a folder too large."""
        with self._lock:
            if self._written is not None and self._written + written < self._max_bytes // 32:
                self._written += written
                return
            self._written = 0
            files = []
            for path in self._folder.glob("??/*"):  # half written ones too
                with suppress(OSError):  # removed by another process meanwhile
                    state = path.stat()
                    files.append((state.st_mtime, state.st_size, path))
            size = sum(size for _, size, _ in files)
            wanted = size if size <= self._max_bytes else self._max_bytes - self._max_bytes // 16
            for _, freed, path in sorted(files):
                if size <= wanted:
                    break
                path.unlink(missing_ok=True)
                size -= freed
