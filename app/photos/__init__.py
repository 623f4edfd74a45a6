"""Photos: upload, keep, find, serve."""
