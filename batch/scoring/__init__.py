"""Apply a scorer, replay and explain its scores, compare them with outcomes."""
