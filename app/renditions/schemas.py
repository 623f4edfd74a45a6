"""What clients send for renditions."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StringConstraints

from app.http.operations import QueryModel
from app.photos.link_schemas import FormatName


class RenditionQuery(QueryModel):
    """Which of a photo's renditions."""

    format: FormatName | None = Field(default=None, description="Without it, `Accept` decides.")
    v: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{1,32}$")] | None = Field(
        default=None,
        description="The version in a photo's `links`. While it is the present one, the answer may be kept for ever; "
        "another one gets the present rendition, for an hour.",
        examples=["7c1f02ab94"],
    )
