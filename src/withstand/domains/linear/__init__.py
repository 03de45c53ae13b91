"""Linear bounds: what networks make of a set, between lines of the inputs (CROWN, DeepPoly)."""
