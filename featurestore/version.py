"""The version of the project, recorded in each run and each fine-tuned checkpoint."""

__version__ = "0.2.0"
