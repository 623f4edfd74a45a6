"""How settings are declared: the types of their values and :func:`setting` itself.

The validators here are strict about what they read (``two``, ``2s`` and ``true`` are no numbers) and their
messages never repeat a value. The settings themselves are in ``settings``.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr

from app.settings_forms import (
    MIN_SECRET_BYTES,
    check_allowed_host,
    check_database_url,
    check_http_url,
    check_ip_address,
    check_network,
    check_redis_url,
    parse_address,
)


class Section(BaseModel):
    """One section of the settings; immutable."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, allow_inf_nan=False)


def _whole_number(value: Any) -> int:
    """Read an integer; neither ``True`` nor ``2.0`` nor ``2s`` is one."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and re.fullmatch(r"\s*[+-]?[0-9]{1,18}\s*", value):
        return int(value)
    raise ValueError("digits only, without a unit")


def _number(value: Any) -> float:
    """Read a finite number; neither ``True`` nor ``nan`` nor ``2s`` is one."""
    if isinstance(value, str) and re.fullmatch(r"\s*[+-]?[0-9]{1,18}(\.[0-9]{1,18})?\s*", value):
        return float(value)
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    raise ValueError("digits with at most one point, without a unit")


def entries(value: Any) -> tuple[str, ...]:
    """Read a list: commas part the entries of a variable."""
    parts = value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, list | tuple) or not all(isinstance(part, str) for part in parts):
        raise ValueError("a list of texts")
    entries = tuple(part.strip() for part in parts)
    if not all(entries):
        raise ValueError("an entry is empty")
    return entries


def _path(value: Any) -> Path:
    """Read a path."""
    if not isinstance(value, str | Path) or not str(value).strip() or "\0" in str(value):
        raise ValueError("a path without NUL characters")
    return Path(value)


def setting(
    default: Any,
    meaning: str,
    *,
    low: float | None = None,
    high: float | None = None,
    unit: str = "",
    allowed: str = "",
) -> Any:
    """Declare a setting: a range for numbers, a sentence for everything else.

    Args:
        default: The value when no source gives one.
        meaning: One line for people.
        low: The smallest number allowed.
        high: The largest number allowed.
        unit: What a number counts.
        allowed: What may stand here, after "must be".
    """
    if low is not None:
        kind, form = ("a number", "g") if isinstance(default, float) else ("a whole number", "d")
        allowed = f"{kind} of {unit} from {low:{form}} to {high:{form}}"
    return Field(
        default,
        ge=low,
        le=high,
        description=meaning,
        json_schema_extra={"allowed": allowed, "unit": unit},
        validate_default=True,
    )


def _is_bind(text: str) -> str:
    parse_address(text)
    return text


def _is_tcp_bind(text: str) -> str:
    if parse_address(text).path is not None:
        raise ValueError("a host and a port; clients reach no unix socket")
    return text


def _is_absolute_path(text: str | None) -> str | None:
    if text is not None and not re.fullmatch(r"/[A-Za-z0-9._+@/-]{1,254}", text):
        raise ValueError("it begins with / and has no other characters")
    return text


def _are_hosts(entries: tuple[str, ...]) -> tuple[str, ...]:
    for entry in entries:
        check_allowed_host(entry)
    return tuple(entry.lower() for entry in entries)


def _are_networks(entries: tuple[str, ...]) -> tuple[str, ...]:
    for entry in entries:
        check_network(entry)
    return entries


def _is_database_url(url: SecretStr) -> SecretStr:
    check_database_url(url.get_secret_value())
    return url


def _is_endpoint(url: str | None) -> str | None:
    if url is not None:
        check_http_url(url)
    return url


def _is_ip_address(text: str | None) -> str | None:
    if text is not None:
        check_ip_address(text)
    return text


def _is_signing_secret(secret: SecretStr | None) -> SecretStr | None:
    if secret is not None and len(secret.get_secret_value().encode("utf-8")) < MIN_SECRET_BYTES:
        raise ValueError("it is too short")
    return secret


def _is_access_key(secret: SecretStr | None) -> SecretStr | None:
    if secret is not None and not re.fullmatch(r"[!-~]{3,512}", secret.get_secret_value()):
        raise ValueError("it has other characters or another length")
    return secret


def _is_hex_secret(secret: SecretStr | None) -> SecretStr | None:
    if secret is not None and not re.fullmatch(r"([0-9A-Fa-f]{2}){8,256}", secret.get_secret_value()):
        raise ValueError("it has other characters or another length")
    return secret


def _is_redis_url(url: SecretStr | None) -> SecretStr | None:
    if url is not None:
        check_redis_url(url.get_secret_value())
    return url


Whole = Annotated[int, BeforeValidator(_whole_number)]
Number = Annotated[float, BeforeValidator(_number)]
FilePath = Annotated[Path, BeforeValidator(_path)]
OptionalFilePath = Annotated[Path | None, BeforeValidator(lambda value: None if value is None else _path(value))]
Bind = Annotated[str, AfterValidator(_is_bind)]
TcpBind = Annotated[str, AfterValidator(_is_tcp_bind)]
AbsolutePath = Annotated[str, AfterValidator(_is_absolute_path)]
OptionalAbsolutePath = Annotated[str | None, AfterValidator(_is_absolute_path)]
Hosts = Annotated[
    tuple[str, ...], BeforeValidator(entries), AfterValidator(_are_hosts), Field(min_length=1, max_length=100)
]
Networks = Annotated[tuple[str, ...], BeforeValidator(entries), AfterValidator(_are_networks), Field(max_length=100)]
IpAddress = Annotated[str | None, AfterValidator(_is_ip_address)]
DatabaseUrl = Annotated[SecretStr, AfterValidator(_is_database_url)]
HttpUrl = Annotated[str | None, AfterValidator(_is_endpoint)]
SigningSecret = Annotated[SecretStr | None, AfterValidator(_is_signing_secret)]
AccessKey = Annotated[SecretStr | None, AfterValidator(_is_access_key)]
HexSecret = Annotated[SecretStr | None, AfterValidator(_is_hex_secret)]
RedisUrl = Annotated[SecretStr | None, AfterValidator(_is_redis_url)]
