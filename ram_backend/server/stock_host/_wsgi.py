"""What `label-studio-ml start` runs, or a WSGI server such as gunicorn (`_wsgi:app`): the stock host with RAMBackend.

As label-studio-ml's own template, but for what is done with events: 1.0.9 starts a Python process for each, which loads
torch to find that there is nothing to learn. Here they are acknowledged, and that is all.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Sequence
from typing import Any

from flask import Flask, jsonify, request  # type: ignore[import-not-found]
from label_studio_ml.api import init_app  # type: ignore[import-not-found]

from ram_backend.errors import RamError, SettingsError
from ram_backend.logs import configure
from ram_backend.server.plugin import IS_SDK_2, RAMBackend
from ram_backend.settings import Settings, load_settings

_NOTHING_LEARNED = "The stock host serves predictions only: nothing was started. `ram-backend serve` learns."
_UNPROTECTED = (
    "The stock host checks no webhook secret, and 1.0.9 no login: unset RAM_WEBHOOK_SECRET, RAM_BASIC_AUTH_USER and"
    " RAM_BASIC_AUTH_PASS and let it listen where only Label Studio reaches it, or use `ram-backend serve`."
)
_log = logging.getLogger("ram_backend.server.stock_host")  # also where it runs as a script


def make_app(settings: Settings, model_dir: str | None = None, options: dict[str, Any] | None = None) -> Flask:
    """The host's app.

    Args:
        settings: where the host may keep files of its own.
        model_dir: that folder, if not below the data folder.
        options: settle tags and thresholds, by the names of extra params (1.0.9; on 2.x extra params do).

    Raises:
        SettingsError: the settings ask for a protection that this host doesn't have.
    """
    login = (settings.basic_auth_user, settings.basic_auth_pass)
    if settings.webhook_secret or (any(login) and not IS_SDK_2):
        raise SettingsError(_UNPROTECTED)
    if IS_SDK_2:
        return init_app(model_class=RAMBackend, basic_auth_user=login[0], basic_auth_pass=login[1])
    folder = model_dir or str(settings.data_dir / "stock-host")
    app = init_app(model_class=RAMBackend, model_dir=folder, **(options or {}))
    app.view_functions["webhook"] = acknowledge
    return app


def acknowledge() -> Any:
    """Answers `/webhook`: corrections stay in Label Studio, where `ram-backend serve` finds them."""
    body = request.get_json(force=True, silent=True)
    action = body.get("action") if isinstance(body, dict) else None
    _log.info("event %s", repr(str(action)[:60]))
    return jsonify({"status": "ok", "message": _NOTHING_LEARNED if action == "START_TRAINING" else "noted"})


def main(arguments: Sequence[str] | None = None) -> None:
    """Serves until it is stopped."""
    parser = argparse.ArgumentParser(description="ram_backend in label-studio-ml's own host")
    try:
        settings = load_settings()
    except RamError as error:
        parser.error(str(error))
    parser.add_argument("-p", "--port", type=int, default=settings.port, help="port (default: RAM_PORT, else 9090)")
    parser.add_argument("--host", default=settings.host, help="address (default: RAM_HOST, else 127.0.0.1)")
    levels = ("debug", "info", "warning", "error")
    parser.add_argument("--log-level", type=str.lower, default=settings.log_level, choices=levels)
    parser.add_argument("--model-dir", help="where the host keeps files of its own (default: in RAM_DATA_DIR)")
    parser.add_argument(
        "--with", "--kwargs", dest="options", nargs="+", type=_option, default=[], metavar="NAME=VALUE",
        help="tags, threshold, per_tag, top_k, as in extra params (1.0.9 doesn't hand those on)",
    )  # fmt: skip
    given = parser.parse_args(arguments)
    configure(given.log_level, "text")
    options = dict(given.options)
    if IS_SDK_2 and options:
        parser.error("--with is for 1.0.9: this host hands extra params on, set them in Label Studio.")
    try:
        RAMBackend(**options)
        app = make_app(settings, given.model_dir, options)
    except RamError as error:
        parser.error(str(error))
    app.run(host=given.host, port=given.port)


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
    app = make_app(load_settings())
