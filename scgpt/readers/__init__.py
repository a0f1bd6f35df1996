"""One module per public data set that needs its own reader."""
