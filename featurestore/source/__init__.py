"""Read a hospital through two SELECTs, and keep the store in step with it."""
