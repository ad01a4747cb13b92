"""WSGI app of label-studio-ml 1.0.9 with RAMBackend, for it and gunicorn (`_wsgi:app`).

It is that package's template, but events are only acknowledged: 1.0.9 starts a
Python process for each.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from flask import Flask, jsonify, request  # type: ignore[import-not-found]
from label_studio_ml.api import init_app  # type: ignore[import-not-found]

from ram_backend.errors import RamError, SettingsError
from ram_backend.logs import configure
from ram_backend.server.plugin import RAMBackend
from ram_backend.settings import Settings, load_settings

_NOTHING_LEARNED = "The stock host serves predictions only: nothing was started. `ram-backend serve` learns."
_UNPROTECTED = (
    "The stock host checks no webhook secret and no login: unset RAM_WEBHOOK_SECRET, RAM_BASIC_AUTH_USER and"
    " RAM_BASIC_AUTH_PASS and let it listen where only Label Studio reaches it, or use `ram-backend serve`."
)
_log = logging.getLogger("ram_backend.server.stock_host")  # of a script, too


def make_app(settings: Settings, options: Mapping[str, Any]) -> Flask:
    """The host's app; `options` are extra params, which 1.0.9 doesn't hand on."""
    if settings.webhook_secret or settings.basic_auth_user or settings.basic_auth_pass:
        raise SettingsError(_UNPROTECTED)
    RAMBackend(**options)
    app = init_app(model_class=RAMBackend, model_dir=str(settings.data_dir / "stock-host"), **options)
    app.view_functions["webhook"] = acknowledge
    return app


def acknowledge() -> Any:
    """Answers `/webhook`: corrections stay in Label Studio."""
    body = request.get_json(force=True, silent=True)
    action = body.get("action") if isinstance(body, dict) else None
    _log.info("event %s", repr(str(action)[:60]))
    return jsonify({"status": "ok", "message": _NOTHING_LEARNED if action == "START_TRAINING" else "noted"})


def main(arguments: Sequence[str] | None = None) -> None:
    """Serves until it is stopped."""
    parser = argparse.ArgumentParser(description="ram_backend in label-studio-ml's own host")
    parser.add_argument("-p", "--port", type=int, help="port (default: RAM_PORT, else 9090)")
    parser.add_argument("--host", help="address (default: RAM_HOST, else 127.0.0.1)")
    parser.add_argument("--log-level", type=str.lower, choices=("debug", "info", "warning", "error"))
    parser.add_argument(
        "--with", "--kwargs", dest="options", nargs="+", type=_option, default=[], metavar="NAME=VALUE",
        help="tags, threshold, per_tag, top_k, as in extra params",
    )  # fmt: skip
    given = parser.parse_args(arguments)
    try:
        settings = load_settings(host=given.host, port=given.port, log_level=given.log_level)
        configure(settings.log_level, "text")
        app = make_app(settings, dict(given.options))
    except RamError as error:
        parser.error(str(error))
    app.run(host=settings.host, port=settings.port)


def _option(text: str) -> tuple[str, Any]:
    """NAME=VALUE; the value is JSON, or a text as it is."""
    name, found, value = text.partition("=")
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r}: expected NAME=VALUE, such as threshold=0.4")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


if __name__ == "__main__":
    main()
else:
    app = make_app(load_settings(), {})
