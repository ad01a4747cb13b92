"""Acceptance test of a candidate version: folds, statistics, off-target check, verdict. Pure.

`training_set` is in this room because gate and training need it.
"""
