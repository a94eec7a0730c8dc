"""Sources: a hospital's tables read through two SELECTs, and their sync into the store."""
