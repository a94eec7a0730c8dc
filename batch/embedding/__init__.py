"""From pending notes to committed embeddings."""
