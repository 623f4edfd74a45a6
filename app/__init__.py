"""Photo API: a photo server whose stability layer is a library of its own."""
