"""What is wrong with a body, in words that repeat neither what a field holds nor a name that the client gave one."""

from __future__ import annotations

import difflib

from fastapi.exceptions import RequestValidationError

from fastbert_serving.schema import Asked

_NO_OBJECT = ("json_invalid", "model_attributes_type")
_LONGEST_NAME = 40  # that may be one of ours, misspelt


def fault_of(error: RequestValidationError, asked: type[Asked]) -> str:
    """Return which fields are wrong, and why.

    Args:
        error: of a body.
        asked: what the body should have been.
    """
    found = error.errors()
    if any(each["type"] in _NO_OBJECT for each in found):
        return "the body is not a JSON object, or is not said to be: Content-Type: application/json"
    faults, unknown = [], []
    for each in found:
        _, *names = each["loc"]
        if not names:
            faults.append(f"the body: {each['msg']}")
        elif names[0] in asked.model_fields:
            faults.append(f"{names[0]}: {each['msg']}")
        else:
            unknown.append(str(names[0]))
    if unknown:
        faults.append(_unknown(unknown, list(error.body), asked))
    return "; ".join(faults)


def _unknown(names: list[str], given: list[str], asked: type[Asked]) -> str:
    """Return where the first of some unknown fields stands among those `given`, and what it may have been meant for."""
    fields = asked.model_fields
    known = sorted(fields, key=lambda name: not fields[name].is_required())
    meant = difflib.get_close_matches(names[0].lower(), known, n=1) if len(names[0]) <= _LONGEST_NAME else []
    return (
        f"field {given.index(names[0])} (counted from 0) is unknown"
        + (f", and {len(names) - 1} more are" if len(names) > 1 else "")
        + (f", perhaps for {meant[0]}" if meant else "")
        + f"; known are {', '.join(known)}"
    )
