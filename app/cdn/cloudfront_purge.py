"""Removal of copies from CloudFront: invalidations, ordered through Amazon's API.

The credentials are those that Amazon's own library finds: the role of the instance, or its variables. An order has a
reference that follows from its paths, so that the same order given twice is one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError, NoCredentialsError

from app.cdn.base import Purger, check_path
from app.errors import UnavailableError, UpstreamDeniedError, UpstreamTimeoutError
from app.settings_delivery import CdnSettings
from app.upstream.observing import CallObserver, observed

_CONNECT_SECONDS: Final = 3.0
_REGION: Final = "us-east-1"
"""The one region of CloudFront's API."""

_DENIED_STATUSES: Final = frozenset({400, 401, 403, 404})
_LATER: Final = frozenset({"Throttling", "ThrottlingException", "TooManyInvalidationsInProgress"})


class CloudFrontPurger:
    """A :class:`app.cdn.base.Purger`. Thread-safe.

    Args:
        distribution_id: Whose copies.
        base_path: The path of the CDN's base URL, which comes before every path.
        timeout_seconds: The longest wait for the API to connect and to send.
        observer: Who hears of the calls.
    """

    def __init__(
        self, distribution_id: str, *, base_path: str, timeout_seconds: float, observer: CallObserver
    ) -> None:
        self._distribution_id = distribution_id
        self._base_path = base_path.rstrip("/")
        self._observer = observer
        config = Config(
            connect_timeout=min(_CONNECT_SECONDS, timeout_seconds),
            read_timeout=timeout_seconds,
            retries={"total_max_attempts": 1},
        )
        self._client: Any = boto3.session.Session().client("cloudfront", region_name=_REGION, config=config)

    def purge(self, paths: Sequence[str]) -> None:
        """Have the copies of some objects removed; see the port."""
        for path in paths:
            check_path(path)
        items = sorted({f"{self._base_path}{path}" for path in paths})
        batch = {
            "Paths": {"Quantity": len(items), "Items": items},
            "CallerReference": hashlib.sha256("\n".join(items).encode()).hexdigest(),
        }
        with observed(self._observer, "cdn", "purge"):
            self._order(batch)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _order(self, batch: dict[str, Any]) -> None:
        try:
            self._client.create_invalidation(DistributionId=self._distribution_id, InvalidationBatch=batch)
        except ClientError as error:
            # What Amazon says goes into the log alone.
            status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
            code = error.response.get("Error", {}).get("Code", "")
            if status in _DENIED_STATUSES and code not in _LATER:
                raise UpstreamDeniedError("CloudFront refuses this server; an operator must act.") from error
            raise UnavailableError("CloudFront cannot do this now. Try again.") from error
        except NoCredentialsError as error:
            raise UpstreamDeniedError("There are no credentials for CloudFront; an operator must act.") from error
        except HTTPClientError as error:
            raise UpstreamTimeoutError("CloudFront did not answer. Try again.") from error
        except BotoCoreError as error:
            raise UnavailableError("CloudFront cannot be asked now. Try again.") from error


def open_purger(cdn: CdnSettings, observer: CallObserver) -> Purger:
    """Build the purger that the settings name, with nothing before it."""
    return CloudFrontPurger(
        cdn.cloudfront_distribution_id or "",
        base_path=urlsplit(cdn.base_url or "").path,
        timeout_seconds=cdn.timeout_seconds,
        observer=observer,
    )
