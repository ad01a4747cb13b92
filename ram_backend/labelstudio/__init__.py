"""Everything that knows Label Studio's shapes: label configs, predictions, requests, and its API."""

from ram_backend.labelstudio.choices import Choice
from ram_backend.labelstudio.label_config import parse_label_config
from ram_backend.labelstudio.plan import ConfidenceControl, LabelPlan, TagControl, choices_for, image_reference
from ram_backend.labelstudio.predictions import ScoredChoice, empty_prediction, prediction
from ram_backend.labelstudio.ready_configs import vocabulary_config
from ram_backend.labelstudio.requests import (
    EventProject,
    PredictRequest,
    ProjectRef,
    SetupRequest,
    Task,
    WebhookRequest,
    read_request,
)

__all__ = [
    "Choice",
    "ConfidenceControl",
    "EventProject",
    "LabelPlan",
    "PredictRequest",
    "ProjectRef",
    "ScoredChoice",
    "SetupRequest",
    "TagControl",
    "Task",
    "WebhookRequest",
    "choices_for",
    "empty_prediction",
    "image_reference",
    "parse_label_config",
    "prediction",
    "read_request",
    "vocabulary_config",
]
