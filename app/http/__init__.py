"""The Flask edge: problems, request context, conditional requests, pages, OpenAPI."""
