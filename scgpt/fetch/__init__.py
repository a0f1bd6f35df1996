"""What comes from outside: sources, transfers, archives, records."""
