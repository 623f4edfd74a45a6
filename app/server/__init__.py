"""The gunicorn side: configuration and listeners."""
