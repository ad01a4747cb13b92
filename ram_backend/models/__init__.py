"""Networks and bundles: what is on disk, how it got there, and what it computes. No import here loads torch."""
