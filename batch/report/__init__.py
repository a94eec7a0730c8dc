"""A scorer's report: data, figures, page."""
