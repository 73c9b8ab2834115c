"""Structured options of the command line."""

import json
from typing import Any

from subnetworks.core.errors import UserError


def json_object(text: str, option: str) -> dict[str, Any]:
    """The JSON object in `text`; `UserError` names the option if it is none."""
    try:
        value = json.loads(text)
    except ValueError as error:
        raise UserError(f"{option}: not valid JSON ({error})") from error
    if not isinstance(value, dict):
        raise UserError(f"{option}: expected a JSON object, got {text!r}")
    return value
