"""Model class for label-studio-ml's own server, 1.0.9 of PyPI or 2.x, which imports it.

Hosts make objects of the class all the time, so it holds nothing; what they
share is in `in_process`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from label_studio_ml.model import LabelStudioMLBase  # type: ignore[import-not-found]

from ram_backend.labelstudio.request_models import SetupRequest, read_request
from ram_backend.projects.options import parse_options
from ram_backend.server.in_process import in_process

IS_SDK_2 = hasattr(LabelStudioMLBase, "set")
"""2.x answers `/setup` with a `model_version` per project, 1.0.9 always with "INITIAL"."""

_GIVEN_BY_SETUP = frozenset({"label_config", "hostname", "access_token", "model_version", "train_output"})
_log = logging.getLogger(__name__)


class RAMBackend(LabelStudioMLBase):  # type: ignore[misc]
    """Tags images of one project, as `ram-backend serve` does.

    On 1.0.9 predictions have no `model_version`: Label Studio puts the one
    there that `/setup` has answered.

    Args:
        given: on 2.x number of the project and label config; on 1.0.9 what
            `/setup` brings, and the options of `label-studio-ml start DIR
            --with threshold=0.4`, which have the names of extra params.

    Raises:
        ProjectOptionsError: an option of the start can't be used.
        NotAvailable: the bundle is still being opened, or can't be (2.x; on
            1.0.9 `predict` finds out).
    """

    def __init__(self, *positional: Any, **given: Any) -> None:
        if not IS_SDK_2:
            options = {name: value for name, value in given.items() if name not in _GIVEN_BY_SETUP}
            self._start_options = parse_options(options, source="Options of the start (--with)")
        super().__init__(*positional, **given)

    def setup(self) -> None:
        """Called by 2.x when an object is made: tells it the model version."""
        if version := in_process().setup(self._request(self.project_id)):
            self.set("model_version", version)

    def set_extra_params(self, extra_params: object) -> None:
        """Takes the connection's extra params (2.x); bad ones raise, the old ones stay."""
        options = parse_options(extra_params)
        super().set_extra_params(json.dumps(options.to_json()) if options else "")
        self.setup()

    def predict(self, tasks: Sequence[Mapping[str, Any]], **unused: Any) -> list[dict[str, Any]]:
        """One prediction per task, in order; the host answers errors with 500."""
        number = self.project_id if IS_SDK_2 else next((task.get("project") for task in tasks), None)
        results = in_process().predict(self._request(number), tasks)
        if not IS_SDK_2:
            for result in results:
                result.pop("model_version", None)
        return results

    def fit(self, *args: Any, **params: Any) -> None:
        """Learns nothing: on 1.0.9 a result would become the model version."""
        _log.info("Nothing is learned here: `ram-backend serve` and its worker learn from corrections.")

    def _request(self, number: object) -> SetupRequest:
        """What the host knows of a project, as `/setup` brings it."""
        options = self.get("extra_params") if IS_SDK_2 else self._start_options.to_json()
        body = {
            "project": str(number),
            "label_config": self.label_config,
            "hostname": getattr(self, "hostname", None) or None,
            "access_token": getattr(self, "access_token", None) or None,
            "extra_params": options or None,
        }
        return read_request(SetupRequest, body)
