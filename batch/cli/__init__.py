"""The commands of the batch jobs."""
