"""Cohorts: the flow of admissions, MEDS labels, caveats and the leakage audit."""
