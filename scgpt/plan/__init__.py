"""What runs: configuration, catalogue, plan, checks and digests; light enough for the Snakefile."""
