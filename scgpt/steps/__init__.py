"""One module per command-line verb: files in, files out."""
