"""Multipart forms, read in one go: their files are small or the whole body is in memory anyway."""

import logging

from python_multipart import create_form_parser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import Field, File

from service.errors import BadBody, BadValue, EmptyBody, TooLarge, bounded, quoted
from service.settings import Settings

# What the parser logs about a form is in the response to its client.
logging.getLogger("python_multipart").setLevel(logging.CRITICAL)

# Bytes; others can run in between.
_AT_A_TIME = 2**20


def files(body: bytes, content_type: str, settings: Settings) -> list[bytes]:
    """The files of a form, whatever their fields are called, in their order.

    Raises BadBody, BadValue for a field that is no file, EmptyBody for no file at all, TooLarge for more than
    ``settings.max_images``.
    """
    found: list[bytes] = []

    def on_field(field: Field) -> None:
        name = (field.field_name or b"").decode("utf-8", "replace")
        raise BadValue(f"the field {quoted(name)} is no file; send images as files (-F image=@PATH)")

    def on_file(file: File) -> None:
        if len(found) == settings.max_images:
            raise TooLarge(
                f"more than {settings.max_images} files in one request, allowed by the setting max_images",
                allowed=settings.max_images,
            )
        file.file_object.seek(0)
        found.append(file.file_object.read())
        file.close()

    try:
        parser = create_form_parser(
            {"Content-Type": content_type.encode("latin-1")},
            on_field,
            on_file,
            {"MAX_MEMORY_FILE_SIZE": settings.max_body_bytes, "UPLOAD_ERROR_ON_BAD_CTE": True},
        )
        for start in range(0, len(body), _AT_A_TIME):
            parser.write(body[start : start + _AT_A_TIME])
        parser.finalize()
    except FormParserError as error:
        raise BadBody(f"the multipart form cannot be read: {bounded(str(error))}") from error
    if not found:
        raise EmptyBody("the multipart form has no files in it")
    return found
