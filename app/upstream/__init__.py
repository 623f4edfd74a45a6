"""Calls to services that speak JSON: bounded in time, size and shape."""
