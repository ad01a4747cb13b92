"""Adaptation of a bundle: recalibration, ridge, head fine-tuning, selection."""
