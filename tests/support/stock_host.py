"""label-studio-ml 1.0.9 as a process: `make stock-host` makes its virtual environment."""

import contextlib
import os
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

import ram_backend
from ram_backend.cli.servers import Server, Service, free_port
from support.processes import is_up

REPOSITORY = Path(__file__).resolve().parents[2]
VENV = Path(os.environ.get("RAM_STOCK_HOST_VENV", REPOSITORY / ".venv-stock-host"))
FOLDER = Path(ram_backend.__file__).parent / "server" / "stock_host"
PROGRAM = VENV / "bin" / "label-studio-ml"

needs_stock_host = pytest.mark.skipif(
    not PROGRAM.exists(), reason=f"there is no label-studio-ml in {VENV.name}/: make stock-host"
)


@contextlib.contextmanager
def stock_host(folder: Path, first_port: int, own: Mapping[str, str], *options: str) -> Iterator[Server]:
    """Starts `label-studio-ml start` on the ready folder, with no setting of this machine; stops it in the end.

    Args:
        folder: data folder.
        first_port: port, or the next free one.
        own: environment variables.
        options: of the command.
    """
    port = free_port(first_port)
    settings = ("RAM_", "LABEL_STUDIO_", "BASIC_AUTH_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(settings)}
    path = f"{VENV / 'bin'}{os.pathsep}{os.environ.get('PATH', '')}"  # it starts "python"
    environment = kept | {"PATH": path, "RAM_DATA_DIR": str(folder), "NO_PROXY": "127.0.0.1", **own}
    command = [PROGRAM, "start", FOLDER, "--host", "127.0.0.1", "--port", str(port), *options]
    service = Service("The stock host", command, folder / "stock-host.log", environment)
    url = f"http://127.0.0.1:{port}"
    try:
        service.wait_for(lambda: is_up(url) or None)
        yield Server(url, service)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(service.pid, signal.SIGTERM)  # a shell and a Python of its own: it ends without them
        service.stop()
