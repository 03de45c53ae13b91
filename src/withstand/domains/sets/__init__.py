"""Sets of tensors that a network is bounded by: they prove."""
