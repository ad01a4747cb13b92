"""Adaptation of a bundle to a project's corrections: recalibration, ridge, head fine-tuning, model selection. Pure."""
