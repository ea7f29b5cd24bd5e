"""A recipe's fields as one short link and as a snippet of Python."""

from __future__ import annotations

import base64
import binascii
import json
import zlib
from collections.abc import Collection, Mapping
from typing import Any

from workbench.variants import WorkbenchError

LINK = "workbench:"
LINK_LIMIT = 100_000  # bytes of JSON that a link may unpack to


def link_of(fields: Mapping[str, Any]) -> str:
    """Plain field values as one string."""
    data = json.dumps(fields, separators=(",", ":"), sort_keys=True).encode()
    return LINK + base64.urlsafe_b64encode(zlib.compress(data, 9)).decode().rstrip("=")


def read_link(link: str) -> Any:
    """What `link_of` was given; links come from strangers, so the size is bounded and nothing is trusted."""
    text = link.strip().removeprefix(LINK)
    try:
        packed = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
        return json.loads(zlib.decompressobj().decompress(packed, LINK_LIMIT))
    except (binascii.Error, zlib.error, ValueError, RecursionError) as error:
        raise WorkbenchError(
            "This is not a whole recipe link; copy it again, from 'workbench:' to its end."
        ) from error


def code_of(fields: Mapping[str, Any], own: Collection[str]) -> str:
    """A snippet that runs a recipe of these fields; the names in `own` are the user's functions."""
    lines = [f"    {key}={_code(value, own)}," for key, value in fields.items()]
    body = "\n" + "\n".join(lines) + "\n" if lines else ""
    return f"import workbench as wb\n\nrecipe = wb.Recipe({body})\nrun = wb.train(recipe)\n"


def _code(value: Any, own: Collection[str]) -> str:
    """`value` as Python text; the names of the user's own functions stay names."""
    if isinstance(value, str) and value in own:
        return value
    if isinstance(value, dict):
        items = ", ".join(f"{_code(key, own)}: {_code(item, own)}" for key, item in value.items())
        return "{" + items + "}"
    return repr(value)
