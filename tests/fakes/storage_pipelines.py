"""Pipelines as a store has them in production, but with waits that a test does not notice."""

from __future__ import annotations

from app.stability import CircuitBreaker, Pipeline, Retry, RetryOptions, Timeout, TimeoutOptions
from app.storage.guarded import STORAGE_CLASSIFICATION, StoragePipelines

_PATIENT_SECONDS = 27.0
"""As in production: a busy machine is no slow store."""


def quick_storage_pipelines() -> StoragePipelines:
    """Return pipelines of their own for one store."""
    return StoragePipelines(*(_pipeline(f"storage_{name}") for name in ("read", "write", "delete", "list")))


def _pipeline(name: str) -> Pipeline:
    retry = Retry(name, RetryOptions(base_seconds=0.001, cap_seconds=0.001), classification=STORAGE_CLASSIFICATION)
    breaker = CircuitBreaker(name, classification=STORAGE_CLASSIFICATION)
    return Pipeline(name, [Timeout(name, TimeoutOptions(timeout_seconds=_PATIENT_SECONDS)), retry, breaker])
