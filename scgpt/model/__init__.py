"""The scGPT network, its objectives and its checkpoints (torch only)."""
