"""Methods on equal terms: scGPT, baselines and controls."""
