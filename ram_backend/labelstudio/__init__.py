"""Everything that knows Label Studio's shapes: label configs, predictions, requests, and its API."""
