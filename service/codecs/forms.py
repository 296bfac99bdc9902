"""Multipart forms with image files (RFC 7578)."""

import logging
from collections.abc import Callable

from python_multipart import FormParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import Field, File, parse_options_header

from service.errors import BadBody, BadValue, EmptyBody, TooLarge, bounded, quoted

# What the parser logs about a form is in the response to its client.
logging.getLogger("python_multipart").setLevel(logging.CRITICAL)

# Bytes of a form that are parsed at a time; other threads run in between.
_FORM_CHUNK = 2**20


def files(body: bytes, form_type: str, max_images: int) -> list[bytes]:
    """The files of a multipart form in their order, whatever the names of their fields.

    ``form_type`` is its Content-Type, with the boundary. Raises BadBody, BadValue for a field that is no
    file, EmptyBody for no file, TooLarge for more than ``max_images``.
    """
    found: list[bytes] = []

    def on_field(field: Field) -> None:
        name = (field.field_name or b"").decode("utf-8", "replace")
        raise BadValue(f"the field {quoted(name)} is no file; send images as files (-F image=@PATH)")

    def on_file(file: File) -> None:
        if len(found) == max_images:
            raise TooLarge(
                f"more than {max_images} files in one request, and {max_images} are allowed by the setting "
                f"max_images",
                allowed=max_images,
            )
        file.file_object.seek(0)
        found.append(file.file_object.read())
        file.close()

    try:
        is_whole = _parse_form(body, form_type, on_field, on_file)
    except FormParserError as error:
        raise BadBody(f"the multipart form cannot be read: {bounded(str(error))}") from error
    if not is_whole:
        # The parser leaves out the file that it is in.
        raise BadBody("the multipart form is truncated: it does not end with its boundary and --")
    if not found:
        raise EmptyBody("the multipart form has no files in it")
    return found


def _parse_form(
    body: bytes, form_type: str, on_field: Callable[[Field], None], on_file: Callable[[File], None]
) -> bool:
    """Whether a form has its end. Raises FormParserError."""
    ends: list[None] = []
    _, options = parse_options_header(form_type)
    # A file never goes to disk: the whole body is in memory already.
    config = {"MAX_MEMORY_FILE_SIZE": len(body), "UPLOAD_ERROR_ON_BAD_CTE": True}
    parser = FormParser(
        "multipart/form-data",
        on_field,
        on_file,
        lambda: ends.append(None),
        options.get(b"boundary"),
        config=config,
    )
    try:
        for start in range(0, len(body), _FORM_CHUNK):
            parser.write(body[start : start + _FORM_CHUNK])
        parser.finalize()
    finally:
        # It refers to itself, and so keeps the files for the garbage collector.
        parser.parser = None
    return bool(ends)
