"""Corrections: what people said about the tags of a task, and the ledger that keeps it.

A webhook's events (`events_of`) and what was shown go into the `Ledger`; `reconcile` adds what Label Studio's API has
besides; `gather` makes labels of the current truth.
"""

from ram_backend.feedback.connecting import open_label_studio, open_project_api
from ram_backend.feedback.corrections import Correction, corrections_of, gather
from ram_backend.feedback.events import FeedbackEvent, events_of, statement_event
from ram_backend.feedback.labels import State, TagLabel, TaskLabels, to_matrix
from ram_backend.feedback.ledger import Ledger, open_ledger
from ram_backend.feedback.reconcile import Reconciled, reconcile
from ram_backend.feedback.shown import KnownImages, Shown, ShownChoice, ShownImage, TaskImage
from ram_backend.feedback.view import Changes, CurrentAnnotation, Fingerprint
from ram_backend.feedback.weights import Weights

__all__ = [
    "Changes", "Correction", "CurrentAnnotation", "FeedbackEvent", "Fingerprint", "KnownImages", "Ledger",
    "Reconciled", "Shown", "ShownChoice", "ShownImage", "State", "TagLabel", "TaskImage", "TaskLabels", "Weights",
    "corrections_of", "events_of", "gather", "open_label_studio", "open_ledger", "open_project_api", "reconcile",
    "statement_event", "to_matrix",
]  # fmt: skip
