"""Prints where the folder is: `label-studio-ml start "$(python -m ram_backend.server.stock_host)"`."""

from __future__ import annotations

from pathlib import Path

if __name__ == "__main__":
    print(Path(__file__).parent)
