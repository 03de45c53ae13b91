"""A run folder, and the stages on it."""
