"""Embedding on Ray: sessions, workers, and how notes are distributed among them."""
