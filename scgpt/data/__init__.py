"""Data: contracts, reading and writing, preprocessing, tokens, simulation."""
