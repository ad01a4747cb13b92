"""Requests that Label Studio 1.23.2 really sent."""

import json
from pathlib import Path
from typing import Any

PAYLOADS = Path(__file__).with_name("payloads")
NAMES = sorted(path.stem for path in PAYLOADS.glob("*.json"))


def body(name: str) -> dict[str, Any]:
    """The JSON body of one recording."""
    return json.loads((PAYLOADS / f"{name}.json").read_text(encoding="utf-8")).get("body") or {}
