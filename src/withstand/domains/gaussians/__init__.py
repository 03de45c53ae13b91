"""Normal distributions that pass through a network: they estimate."""
