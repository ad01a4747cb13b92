"""Acceptance test of a candidate: folds, statistics, off-target check, verdict. Pure.

`training_set` is in this room because gate and training need it.
"""
