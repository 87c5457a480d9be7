"""Types for parameters of tools that stand for a file or a name in a query: what a model writes stays data."""

import os
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

Identifier = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,62}$", description="a plain name: letters, digits, _")]
"""A name of a table or column, which SQL cannot bind as a value: nothing that could end it or begin another statement fits."""


def _one_line(text: str) -> str:
    if any(ord(character) < 32 or ord(character) == 127 for character in text):
        raise ValueError("must be one line without control characters")
    return text


Line = Annotated[str, Field(max_length=1000), AfterValidator(_one_line)]
"""Text of one line without control characters, for values that end up in logs, headers or search queries."""


class Within:
    """``Annotated[Path, Within(folder)]``: a relative path that stays inside ``folder``; the function receives it resolved.

    Absolute paths, ``..``, backslashes, control characters and symbolic links that lead outside are refused. A link made between the
    check and the use is not seen: keep the folder out of others' hands.
    """

    def __init__(self, folder: str | Path) -> None:
        self._folder = Path(folder)

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._resolve, core_schema.str_schema(min_length=1, max_length=500))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"type": "string", "minLength": 1, "maxLength": 500, "description": "a relative path"}

    def _resolve(self, text: str) -> Path:
        if os.path.isabs(text) or text.startswith("~") or "\\" in text or ".." in text.split("/"):
            raise ValueError("must be a relative path without '..'")
        if any(ord(character) < 32 or ord(character) == 127 for character in text):
            raise ValueError("must not hold control characters")
        folder = self._folder.resolve()
        try:
            path = (folder / text).resolve()
        except (OSError, RuntimeError):
            raise ValueError("cannot be resolved") from None
        if not path.is_relative_to(folder):
            raise ValueError("must stay inside the folder of this tool")
        return path
