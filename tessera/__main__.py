"""The library on the command line: ``tessera COMMAND``, or ``python -m tessera COMMAND``.

    tessera encode picture.png --model exported/vqvae-mnist      in this process
    tessera encode picture.png --url http://localhost:8000       by a service

A failure is one line on stderr and exit code 1; a wrong flag is exit code 2, and Ctrl-C 130.
"""

import sys

import click

from service.errors import NoKey, TesseraError
from tessera.command import commands

PROGRAM = "tessera"


def main() -> int:
    """Run a command; the exit code."""
    try:
        commands.main(prog_name=PROGRAM, standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return error.exit_code
    except click.ClickException as error:
        return _failed(error.format_message(), error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        return _failed("interrupted", 130)
    except OSError as error:
        return _failed(f"{f'{error.filename}: ' if error.filename else ''}{error.strerror or error}")
    except NoKey as error:
        return _failed(f"{error} (--key or the variable TESSERA_CLIENT_KEY)")
    except TesseraError as error:
        return _failed(str(error))
    return 0


def _failed(detail: str, code: int = 1) -> int:
    """Write why a command failed, on one line; the exit code."""
    sys.stderr.write(f"{PROGRAM}: {' '.join(detail.split())}\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
