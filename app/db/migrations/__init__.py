"""Migrations of the schema, run by ``python -m app migrate``."""
