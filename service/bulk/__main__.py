"""Encode a data set, or decode what was encoded. A run that was ended goes on with the same command.

    python -m service.bulk encode --model NAME --input URI --output URI
    python -m service.bulk decode --model NAME --input URI --output URI

A failure is one line on stderr and exit code 1; a wrong flag is exit code 2, and Ctrl-C 130.
"""

import errno
import sys

import click

from service.errors import TesseraError

PROGRAM = "python -m service.bulk"
# What the extra `bulk` installs.
EXTRA = ("fsspec", "pyarrow", "pydantic_settings")


def main() -> int:
    """Run a command; the exit code."""
    try:
        from service.bulk.command import commands

        commands.main(prog_name=PROGRAM, standalone_mode=False)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in EXTRA:
            raise
        return failed(f"{package} is not installed; it comes with the extra: pip install '.[bulk]'")
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return error.exit_code
    except click.ClickException as error:
        return failed(error.format_message(), error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        return failed("ended; the same command goes on where this one was", 130)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        full = "; what is done stays, and the same command goes on" if error.errno == errno.ENOSPC else ""
        return failed(f"{where}{error.strerror or error}{full}")
    except TesseraError as error:
        return failed(str(error))
    return 0


def failed(detail: str, code: int = 1) -> int:
    """Write why a run failed, on one line; the exit code."""
    sys.stderr.write(f"{PROGRAM}: {' '.join(detail.split())}\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
