"""Simple methods, written here."""
