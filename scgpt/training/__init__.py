"""Training: batches, optimiser, loop, fine-tuning recipes."""
