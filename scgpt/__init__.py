"""Open, checkpoint-compatible scGPT and the benchmark around it."""
