"""What the account routes take and answer."""

from __future__ import annotations

from typing import Annotated, Literal
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
    str, StringConstraints(min_length=1, max_length=200), Field(description="The refresh token, as it was given")
]
Scopes = Annotated[
    list[Scope],
    Field(min_length=1, max_length=20, json_schema_extra={"uniqueItems": True}, examples=[["photos:read"]]),
    AfterValidator(_refuse_repeats),
]


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
        description="When it stops: in the future, at most 366 days from now", examples=["2027-01-31T00:00:00Z"]
    )


class UserView(View):
    """An account, its quota and its use."""

    id: UUID
    email: str
    is_admin: bool
    quota_bytes: int = Field(description="What all photos together may weigh")
    used_bytes: int = Field(description="What they weigh, trash included")
    created_at: Instant


class TokenView(View):
    """What a login or a refresh gives."""

    access_token: str = Field(description="Send it as 'Authorization: Bearer …'")
    refresh_token: str = Field(description="Gives the next pair, once; keep it secret")
    token_type: Literal["Bearer"] = "Bearer"
    expires_in: int = Field(description="Seconds that the access token lives")


class SessionView(View):
    """One login on one device."""

    id: UUID
    user_agent: str = Field(description="What the device called itself at login")
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
    name: str
    key_prefix: str = Field(description="How the key begins")
    scopes: list[str]
    created_at: Instant
    expires_at: Instant
    last_used_at: Instant | None = Field(description="Within a minute")


class NewApiKeyView(ApiKeyView):
    """A new API key, with the key itself: it is shown this once."""

    key: str = Field(description="Send it as 'X-Api-Key: …' or 'Authorization: Bearer …'; it is not shown again")


class ApiKeysView(View):
    """All API keys, the latest first."""

    items: list[ApiKeyView]
