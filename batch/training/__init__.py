"""Fit, calibrate and evaluate a scorer."""
