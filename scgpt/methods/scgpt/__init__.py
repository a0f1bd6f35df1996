"""scGPT as a method of each task."""
