"""What the account routes take and answer."""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

from app.accounts.emails import EMAIL_CHARACTERS_MAX, normalize_email
from app.accounts.passwords import PASSWORD_CHARACTERS_MAX, PASSWORD_CHARACTERS_MIN
from app.accounts.scopes import Scope
from app.http.fields import Instant, Line
from app.http.operations import RequestModel


def _refuse_repeats(scopes: list[Scope]) -> list[Scope]:
    if len(set(scopes)) < len(scopes):
        raise ValueError("the same scope is there twice")
    return scopes


EmailAddress = Annotated[
    str,
    StringConstraints(min_length=3, max_length=EMAIL_CHARACTERS_MAX),
    AfterValidator(normalize_email),
    Field(json_schema_extra={"format": "email"}, examples=["ada@example.org"]),
]
NewPassword = Annotated[
    str,
    StringConstraints(min_length=PASSWORD_CHARACTERS_MIN, max_length=PASSWORD_CHARACTERS_MAX),
    Field(
        json_schema_extra={"format": "password"},
        description="8 to 128 characters, 15 or more advised; common passwords are refused",
        examples=["a lighthouse in the rain"],
    ),
]
Password = Annotated[
    str,
    StringConstraints(min_length=1, max_length=PASSWORD_CHARACTERS_MAX),
    Field(json_schema_extra={"format": "password"}, examples=["a lighthouse in the rain"]),
]
RefreshTokenText = Annotated[
    str,
    StringConstraints(min_length=1, max_length=200),
    Field(description="The refresh token, as it was given", examples=["kqPZ3Yw0uV8mEo2hN5rJ7xTfL1cA9sDgB4iKyWvQzXU"]),
]
Scopes = Annotated[
    list[Scope],
    Field(min_length=1, max_length=20, json_schema_extra={"uniqueItems": True}, examples=[["photos:read"]]),
    AfterValidator(_refuse_repeats),
]


def _in_ninety_days(schema: dict[str, Any]) -> None:
    """Give an example that works on the day it is read."""
    day = dt.datetime.now(dt.UTC).date() + dt.timedelta(days=90)
    schema["examples"] = [f"{day.isoformat()}T00:00:00Z"]


class View(BaseModel):
    """Base of what is answered."""

    model_config = ConfigDict(frozen=True)


class Registration(RequestModel):
    """A new account."""

    email: EmailAddress
    password: NewPassword


class Login(RequestModel):
    """An e-mail address and its password."""

    email: EmailAddress
    password: Password


class PasswordChange(RequestModel):
    """A new password, with the present one."""

    current_password: Password
    new_password: NewPassword


class AccountClosure(RequestModel):
    """The password, before the account is closed for good."""

    password: Password


class RefreshRequest(RequestModel):
    """A refresh token, to be used or given up."""

    refresh_token: RefreshTokenText


class ApiKeyRequest(RequestModel):
    """A new API key."""

    name: Annotated[Line, StringConstraints(min_length=1, max_length=100)] = Field(
        description="What it is for", examples=["backup script"]
    )
    scopes: Scopes = Field(description="What it may do: at most what the maker may")
    expires_at: Instant = Field(
        description="When it stops: in the future, at most 366 days from now", json_schema_extra=_in_ninety_days
    )


class UserView(View):
    """An account, its quota and its use."""

    id: UUID
    email: str = Field(examples=["ada@example.org"])
    is_admin: bool
    quota_bytes: int = Field(description="What all photos together may weigh", examples=[10_737_418_240])
    used_bytes: int = Field(description="What they weigh, trash included", examples=[3_871_204])
    created_at: Instant


class TokenView(View):
    """What a login or a refresh gives."""

    access_token: str = Field(
        description="Send it as 'Authorization: Bearer …'",
        examples=["eyJhbGciOiJIUzI1Ni….eyJpc3Mi….4vTn…"],
    )
    refresh_token: str = Field(
        description="Gives the next pair, once; keep it secret",
        examples=["kqPZ3Yw0uV8mEo2hN5rJ7xTfL1cA9sDgB4iKyWvQzXU"],
    )
    token_type: Literal["Bearer"] = "Bearer"
    expires_in: int = Field(description="Seconds that the access token lives", examples=[600])


class SessionView(View):
    """One login on one device."""

    id: UUID
    user_agent: str = Field(description="What the device called itself at login", examples=["curl/8.5.0"])
    created_at: Instant
    last_used_at: Instant = Field(description="When its tokens were last refreshed")
    expires_at: Instant = Field(description="When it ends, however often it is refreshed")
    current: bool = Field(description="Whether this request came from it")


class SessionsView(View):
    """All living sessions, the latest first."""

    items: list[SessionView]


class ApiKeyView(View):
    """An API key, without its secret."""

    id: UUID
    name: str = Field(examples=["backup script"])
    key_prefix: str = Field(description="How the key begins", examples=["pk_x7Kq2mVd"])
    scopes: list[str] = Field(examples=[["photos:read"]])
    created_at: Instant
    expires_at: Instant
    last_used_at: Instant | None = Field(description="Within a minute")


class NewApiKeyView(ApiKeyView):
    """A new API key, with the key itself: it is shown this once."""

    key: str = Field(
        description="Send it as 'X-Api-Key: …' or 'Authorization: Bearer …'; it is not shown again",
        examples=["pk_x7Kq2mVd_…"],
    )


class ApiKeysView(View):
    """All API keys, the latest first."""

    items: list[ApiKeyView]
