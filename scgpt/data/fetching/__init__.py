"""The parts of a download: sources, transfers, verification, records, archives."""
