"""Twins: simulated files in the raw formats of the public sources, with known truth."""
