"""A synthetic hospital in the file format of MIMIC-III or MIMIC-IV."""
