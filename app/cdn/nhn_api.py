"""NHN Cloud's CDN API, version 2.0: one call, judged.

The API answers 200 to everything; ``header.isSuccessful`` decides. Its codes say what went wrong to an operator and
stay out of answers to clients.

Source: NHN Cloud, CDN, "API v2.0 Guide" and "Error Codes".
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final

from app.cdn.base import secret_of
from app.errors import UnavailableError, UpstreamContentError, UpstreamDeniedError
from app.settings_delivery import CdnSettings
from app.upstream.json_service import JsonAnswer, JsonService
from app.upstream.observing import CallObserver, observed

_NAME: Final = "The CDN's API"
# The app key, the secret key, the service or the request is wrong: asking again does not help.
_DENIED_CODES: Final = frozenset({10000, 10001, 10006, 10021, 10033, 10034, 10035, 10036, 10037, 10038, 20001, 20002})
_DENIED_STATUSES: Final = frozenset({HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND})


class NhnResultError(Exception):
    """What the API said, for the log alone.

    Args:
        said: An HTTP status or a result code.
    """

    def __init__(self, said: str) -> None:
        keys = "PHOTO_API_CDN__NHN_APP_KEY and PHOTO_API_CDN__NHN_SECRET_KEY"
        super().__init__(f"NHN's CDN API said {said}; check {keys}")


class NhnApi:
    """The API of one app key. Thread-safe; connects when first used.

    Args:
        api_url: Where it is.
        app_key: Whose CDN services.
        secret_key: Goes into ``Authorization``.
        timeout_seconds: Cap on one call.
        observer: Who hears of the calls.
    """

    def __init__(
        self, api_url: str, *, app_key: str, secret_key: str, timeout_seconds: float, observer: CallObserver
    ) -> None:
        self._service = JsonService(api_url, name=_NAME, timeout_seconds=timeout_seconds)
        self._root = f"/v2.0/appKeys/{app_key}"
        self._secret_key = secret_key
        self._observer = observer

    def ask(self, operation: str, path: str, json: Mapping[str, Any]) -> Mapping[str, Any]:
        """Ask once and return the answer's document.

        Args:
            operation: For metrics.
            path: Below the app key; begins with a slash.
            json: What is asked.

        Raises:
            UpstreamDeniedError: The API does not let us in, or the request can never work.
            UpstreamContentError: The answer is not one of this API.
            UnavailableError: The API does not answer, or cannot now.
        """
        with observed(self._observer, "cdn", operation):
            answer = self._service.call(
                "POST", self._root + path, headers={"Authorization": self._secret_key}, json=dict(json)
            )
            return _judge(answer)

    def close(self) -> None:
        """Close the connections."""
        self._service.close()


def open_api(cdn: CdnSettings, observer: CallObserver) -> NhnApi:
    """Build the API that the settings name.

    Args:
        cdn: Valid settings, with an app key.
        observer: Who hears of the calls.
    """
    return NhnApi(
        cdn.nhn_api_url or "",
        app_key=cdn.nhn_app_key or "",
        secret_key=secret_of(cdn.nhn_secret_key),
        timeout_seconds=cdn.timeout_seconds,
        observer=observer,
    )


def _judge(answer: JsonAnswer) -> Mapping[str, Any]:
    if answer.status in _DENIED_STATUSES:
        raise _denied() from NhnResultError(f"status {int(answer.status)}")
    document = answer.document or {}
    header = document.get("header")
    if not answer.is_success or not isinstance(header, dict) or not isinstance(header.get("isSuccessful"), bool):
        raise UpstreamContentError(f"{_NAME} gave an answer that is not one of its own.")
    if header["isSuccessful"]:
        return document
    code = header.get("resultCode")
    reason = NhnResultError(f"code {code}" if isinstance(code, int) else "no code")
    if code in _DENIED_CODES:
        raise _denied() from reason
    raise UnavailableError(f"{_NAME} cannot do this now. Try again.") from reason


def _denied() -> UpstreamDeniedError:
    return UpstreamDeniedError(f"{_NAME} refuses this server; an operator must act.")
