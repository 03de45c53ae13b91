"""A network as the graph of its operations, and one rule an operation, which every domain shares."""
