"""``python -m app openapi``: print the API's document, without settings, database or server."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from app.cli import exit_codes


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command.

    Args:
        subparsers: What ``ArgumentParser.add_subparsers()`` returned.
    """
    parser = subparsers.add_parser(
        "openapi",
        help="print the OpenAPI document",
        description="Print the OpenAPI 3.1 document that a server of this version has at /openapi.json.",
        epilog="exit codes: 0 written; 1 the file cannot be written; 2 wrong usage",
    )
    parser.add_argument("--output", metavar="FILE", type=Path, help="write to FILE instead of standard output")
    parser.set_defaults(run=_print_document)


def _print_document(arguments: argparse.Namespace) -> int:
    """Run ``openapi``."""
    from app.accounts.routes import ApiKeyRoutes, SessionRoutes, UserRoutes
    from app.http.openapi import build_document
    from app.http.operations import declared_operations
    from app.ops.build import VERSION
    from app.photos.link_routes import LinkRoutes
    from app.photos.original_routes import OriginalRoutes
    from app.photos.routes import PhotoRoutes
    from app.photos.upload_routes import UploadRoutes
    from app.renditions.routes import RenditionRoutes

    # In the factory's order; a test compares the result with what a server shows.
    photos = (UploadRoutes, PhotoRoutes, OriginalRoutes, RenditionRoutes, LinkRoutes)
    rooms = (UserRoutes, SessionRoutes, ApiKeyRoutes, *photos)
    operations = [operation for routes in rooms for operation in declared_operations(routes)]
    text = json.dumps(build_document(operations, version=VERSION), indent=2, ensure_ascii=False) + "\n"
    if arguments.output is None:
        print(text, end="")
        return exit_codes.OK
    try:
        arguments.output.write_text(text, encoding="utf-8")
    except OSError as error:
        print(f"{arguments.output} cannot be written: {error.strerror}.", file=sys.stderr)
        return exit_codes.FAILED
    return exit_codes.OK
