"""One header of a call, without a mapping of them all."""

from starlette.types import Scope


def header(scope: Scope, name: bytes) -> str | None:
    """The first header of a name, which is in lower case, as ASGI has them."""
    for key, value in scope["headers"]:
        if key == name:
            return str(value, "latin-1")
    return None
