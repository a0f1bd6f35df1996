"""Plot functions on tidy tables."""
