"""Who is labelled: flow of admissions, leakage audit, MEDS export."""
