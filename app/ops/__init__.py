"""Operating the process: health, metrics, logs, maintenance."""
