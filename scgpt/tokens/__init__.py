"""From expression to what the network reads: vocabulary, bins, tokens, keys."""
