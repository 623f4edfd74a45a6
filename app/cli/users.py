"""Commands about users: ``user create``, which also makes the first administrator."""

from __future__ import annotations

import argparse
import getpass
import json
import sys

from app.cli import exit_codes
from app.errors import ValidationFailedError


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the commands of this module.

    Args:
        subparsers: What ``ArgumentParser.add_subparsers()`` returned.
    """
    epilog = (
        "exit codes: 0 made; 1 not made (the address has an account, the password is refused, no database), "
        "the reason stands on standard error; 2 wrong usage; 78 the configuration is wrong"
    )
    user = subparsers.add_parser("user", help="make accounts", description="Commands about users.", epilog=epilog)
    commands = user.add_subparsers(title="commands", metavar="COMMAND", required=True)
    create = commands.add_parser(
        "create",
        help="make an account, whether registration is open or not",
        description="Make an account. The password is asked for twice, or read from standard input.",
        epilog=epilog,
    )
    create.add_argument("email", metavar="EMAIL")
    create.add_argument("--admin", action="store_true", help="give it the scopes admin:read and admin:ops")
    create.add_argument(
        "--password-stdin", action="store_true", help="read the password from the first line of standard input"
    )
    create.add_argument("--json", action="store_true", help='print {"id", "email", "is_admin"}')
    create.set_defaults(run=_create)


def _create(arguments: argparse.Namespace) -> int:
    """Run ``user create``."""
    from app.accounts.credentials import Credentials
    from app.accounts.delays import LoginDelays
    from app.accounts.emails import normalize_email
    from app.accounts.passwords import Passwords
    from app.accounts.principals import PrincipalCache
    from app.accounts.service import AccountService
    from app.cli.database import open_database
    from app.settings import load_settings

    try:
        email = normalize_email(arguments.email)
    except ValueError as error:
        print(f"EMAIL {error}", file=sys.stderr)
        return exit_codes.USAGE
    settings = load_settings()
    with open_database(settings.database) as database:
        passwords = Passwords()
        accounts = AccountService(
            database,
            passwords,
            Credentials(database, passwords, LoginDelays(database)),
            PrincipalCache(0),
            is_registration_open=True,
            default_quota_bytes=settings.photos.quota_bytes,
        )
        password = _read_password(from_stdin=arguments.password_stdin)
        if password is None:
            print("The two passwords differ.", file=sys.stderr)
            return exit_codes.FAILED
        try:
            account = accounts.create(email, password, is_admin=arguments.admin)
        except ValidationFailedError as error:
            print(*(mistake["detail"] for mistake in error.errors), sep="\n", file=sys.stderr)
            return exit_codes.FAILED
    if arguments.json:
        print(json.dumps({"id": str(account.id), "email": account.email, "is_admin": account.is_admin}))
    else:
        print(f"Made the {'administrator' if account.is_admin else 'user'} {account.email} ({account.id}).")
    return exit_codes.OK


def _read_password(*, from_stdin: bool) -> str | None:
    """Return the password; None when it was typed differently the second time."""
    if from_stdin:
        return sys.stdin.readline().removesuffix("\n").removesuffix("\r")
    password = getpass.getpass("Password: ")
    return password if getpass.getpass("Again: ") == password else None
