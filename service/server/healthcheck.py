"""Whether the service on this machine is ready, as a container's health check asks it.

    python -m service.server.healthcheck

The exit code is 0 if it is, else 1 and a line says why not. The port is ``TESSERA_PORT``'s. Nothing of the
service is imported: the question is put every few seconds.
"""

import http.client
import json
import os
import sys

PORT = 8000
PATIENCE = 5.0


def main() -> int:
    """Ask; the exit code."""
    # No proxy comes in between, whatever the environment says: it would ask its own machine.
    connection = http.client.HTTPConnection(
        "localhost", int(os.environ.get("TESSERA_PORT") or PORT), timeout=PATIENCE
    )
    try:
        connection.request("GET", "/readyz")
        answer = connection.getresponse()
        told = json.loads(answer.read())
    except (OSError, http.client.HTTPException, ValueError) as error:
        sys.stdout.write(f"the service does not answer: {error}\n")
        return 1
    finally:
        connection.close()
    sys.stdout.write(f"{told.get('detail') or told.get('status')}\n")
    return 0 if answer.status == http.HTTPStatus.OK else 1


if __name__ == "__main__":
    sys.exit(main())
