"""Acceptance test of a candidate version: folds, statistics, off-target check, verdict. Pure."""
