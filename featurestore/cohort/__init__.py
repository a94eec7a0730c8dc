"""Cohorts: the flow of admissions, MEDS labels and the leakage audit."""
