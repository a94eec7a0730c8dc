"""Performance at thresholds, in groups of patients, and the calibration curve."""
