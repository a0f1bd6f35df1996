"""What users call from Python: load a model, embed cells, look at genes and attention."""
