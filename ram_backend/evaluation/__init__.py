"""Evaluation on labelled images: readers, figures, intervals, leaks, baselines, reports.

Labels go through `labels`, scores come from the product's own taggers, and all
figures are those of `ram_backend.metrics`.
"""
