"""The routes of accounts: users, tokens, sessions, API keys."""

from __future__ import annotations

from uuid import UUID

from flask import request

from app.accounts.api_keys import ApiKeyRecord, ApiKeyService
from app.accounts.schemas import (
    AccountClosure,
    ApiKeyRequest,
    ApiKeysView,
    ApiKeyView,
    Login,
    NewApiKeyView,
    PasswordChange,
    RefreshRequest,
    Registration,
    SessionsView,
    SessionView,
    TokenView,
    UserView,
)
from app.accounts.service import Account, AccountService
from app.accounts.sessions import Client, SessionService, TokenPair
from app.errors import (
    ConflictError,
    InvalidCredentialsError,
    InvalidTokenError,
    MissingScopeError,
    NotFoundError,
    PermissionDeniedError,
    RegistrationClosedError,
    TooManyRequestsError,
    ValidationFailedError,
)
from app.http.identity import AUTHENTICATED, PUBLIC, SESSION, Principal
from app.http.operations import Changes, Reply, delete, get, patch, post


class UserRoutes:
    """Registration, and one's own account.

    Args:
        accounts: The use cases of accounts.
    """

    def __init__(self, accounts: AccountService) -> None:
        self._accounts = accounts

    @post(
        "/api/v1/users",
        summary="Register",
        access=PUBLIC,
        answers={201: UserView},
        sends={201: ("Location",)},
        problems=(RegistrationClosedError, ConflictError, TooManyRequestsError, ValidationFailedError),
    )
    def register(self, body: Registration) -> Reply:
        """Make an account.

        The password has 8 to 128 characters and is not among the most common ones. 409: the address has an account;
        403: accounts are made by an administrator here.
        """
        account = self._accounts.register(body.email, body.password)
        return Reply(201, _user_view(account), {"Location": "/api/v1/users/me"})

    @get("/api/v1/users/me", summary="Show my account", access=AUTHENTICATED, answers={200: UserView})
    def show_me(self, principal: Principal) -> Reply:
        """Show the account, its quota and how much of it is used."""
        return Reply(200, _user_view(self._accounts.show(principal.user_id)))

    @patch(
        "/api/v1/users/me",
        summary="Change my password",
        access=SESSION,
        answers={200: UserView},
        problems=(PermissionDeniedError, TooManyRequestsError, ValidationFailedError),
    )
    def change_password(self, principal: Principal, body: PasswordChange) -> Reply:
        """Change the password and end all sessions, this one too.

        403: the present password is wrong; after repeated failures 429. API keys stay.
        """
        account = self._accounts.show(principal.user_id)
        self._accounts.change_password(
            principal.user_id, body.current_password, body.new_password, request.remote_addr
        )
        return Reply(200, _user_view(account))

    @delete(
        "/api/v1/users/me",
        summary="Close my account",
        access=SESSION,
        answers={204: None},
        problems=(PermissionDeniedError, TooManyRequestsError),
    )
    def close_account(self, principal: Principal, body: AccountClosure) -> Reply:
        """Close the account for good: all sessions and API keys end at once, then all photos are removed.

        403: the password is wrong; after repeated failures 429.
        """
        self._accounts.close(principal.user_id, body.password, request.remote_addr)
        return Reply(204)


class SessionRoutes:
    """Logging in and out.

    Args:
        sessions: The use cases of sessions.
    """

    def __init__(self, sessions: SessionService) -> None:
        self._sessions = sessions

    @post(
        "/api/v1/auth/tokens",
        summary="Log in",
        access=PUBLIC,
        changes=Changes.SESSIONS,
        answers={200: TokenView},
        problems=(InvalidCredentialsError, TooManyRequestsError),
    )
    def log_in(self, body: Login) -> Reply:
        """Begin a session and get an access token and a refresh token.

        The answer does not tell an unknown address from a wrong password. After repeated failures of an address or a
        network 429, with the seconds to wait in Retry-After.
        """
        client = Client(request.remote_addr, request.user_agent.string)
        return Reply(200, _token_view(self._sessions.log_in(body.email, body.password, client)))

    @post(
        "/api/v1/auth/tokens/refresh",
        summary="Refresh tokens",
        access=PUBLIC,
        changes=Changes.SESSIONS,
        answers={200: TokenView},
        problems=(InvalidTokenError,),
    )
    def refresh(self, body: RefreshRequest) -> Reply:
        """Get the next pair of tokens; the refresh token is used up.

        Sent again within 10 seconds it gives the same refresh token again. Sent again later it ends the session,
        because two have it.
        """
        return Reply(200, _token_view(self._sessions.refresh(body.refresh_token)))

    @delete("/api/v1/auth/tokens", summary="Log out", access=PUBLIC, answers={204: None}, changes=Changes.SESSIONS)
    def log_out(self, body: RefreshRequest) -> Reply:
        """End the session of a refresh token. An unknown token is no error (RFC 7009)."""
        self._sessions.log_out(body.refresh_token)
        return Reply(204)

    @get("/api/v1/auth/sessions", summary="List my sessions", access=SESSION, answers={200: SessionsView})
    def list_sessions(self, principal: Principal) -> Reply:
        """List where I am logged in, the latest first."""
        items = [
            SessionView(
                id=record.id,
                user_agent=record.user_agent,
                created_at=record.created_at,
                last_used_at=record.last_used_at,
                expires_at=record.expires_at,
                current=record.id == principal.session_id,
            )
            for record in self._sessions.living(principal.user_id)
        ]
        return Reply(200, SessionsView(items=items))

    @delete(
        "/api/v1/auth/sessions",
        summary="End all my sessions",
        access=SESSION,
        answers={204: None},
        changes=Changes.SESSIONS,
    )
    def end_sessions(self, principal: Principal) -> Reply:
        """Log out everywhere, here too. API keys stay."""
        self._sessions.end_all(principal.user_id)
        return Reply(204)

    @delete(
        "/api/v1/auth/sessions/<uuid:session_id>",
        summary="End one of my sessions",
        access=SESSION,
        changes=Changes.SESSIONS,
        answers={204: None},
        problems=(NotFoundError,),
    )
    def end_session(self, principal: Principal, session_id: UUID) -> Reply:
        """Log out one device. Another user's session is not found."""
        self._sessions.end(principal.user_id, session_id)
        return Reply(204)


class ApiKeyRoutes:
    """API keys.

    Args:
        api_keys: The use cases of API keys.
    """

    def __init__(self, api_keys: ApiKeyService) -> None:
        self._api_keys = api_keys

    @post(
        "/api/v1/api-keys",
        summary="Make an API key",
        access="keys:manage",
        answers={201: NewApiKeyView},
        problems=(MissingScopeError, ConflictError, ValidationFailedError),
    )
    def create_api_key(self, principal: Principal, body: ApiKeyRequest) -> Reply:
        """Make a key with some of my scopes and an end within a year. The key itself is shown this once.

        403: a scope that I do not have; 409: there are 100 keys already.
        """
        record, key = self._api_keys.create(principal, body.name, body.scopes, body.expires_at)
        return Reply(201, NewApiKeyView(key=key, **_api_key_view(record).model_dump()))

    @get("/api/v1/api-keys", summary="List my API keys", access="keys:manage", answers={200: ApiKeysView})
    def list_api_keys(self, principal: Principal) -> Reply:
        """List my keys without their secrets, expired ones too, the latest first."""
        items = [_api_key_view(record) for record in self._api_keys.of_user(principal.user_id)]
        return Reply(200, ApiKeysView(items=items))

    @delete(
        "/api/v1/api-keys/<uuid:key_id>",
        summary="Delete an API key",
        access="keys:manage",
        answers={204: None},
        problems=(NotFoundError,),
    )
    def delete_api_key(self, principal: Principal, key_id: UUID) -> Reply:
        """Delete a key; it stops at once. Another user's key is not found."""
        self._api_keys.delete(principal.user_id, key_id)
        return Reply(204)


def _user_view(account: Account) -> UserView:
    return UserView(
        id=account.id,
        email=account.email,
        is_admin=account.is_admin,
        quota_bytes=account.quota_bytes,
        used_bytes=account.used_bytes,
        created_at=account.created_at,
    )


def _token_view(pair: TokenPair) -> TokenView:
    return TokenView(access_token=pair.access_token, refresh_token=pair.refresh_token, expires_in=pair.expires_in)


def _api_key_view(record: ApiKeyRecord) -> ApiKeyView:
    return ApiKeyView(
        id=record.id,
        name=record.name,
        key_prefix=record.key_prefix,
        scopes=record.scopes,
        created_at=record.created_at,
        expires_at=record.expires_at,
        last_used_at=record.last_used_at,
    )
