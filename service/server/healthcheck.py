"""A container's health check: whether the service on this machine is ready.

    python -m service.server.healthcheck

The exit code is 0 if it is; else it is 1, and one line says why. The port is that of ``TESSERA_PORT``.
Nothing of the service is imported: the check runs every few seconds.
"""

import http.client
import json
import os
import sys

PORT = 8000
PATIENCE = 5.0


def main() -> int:
    """Request ``/readyz``; the exit code."""
    # http.client ignores the proxies of the environment: a proxy would ask its own machine.
    connection = http.client.HTTPConnection("localhost", timeout=PATIENCE)
    try:
        connection.port = int(os.environ.get("TESSERA_PORT") or PORT)
        connection.request("GET", "/readyz")
        response = connection.getresponse()
        document = dict(json.loads(response.read()))
    except (OSError, http.client.HTTPException, ValueError, TypeError) as error:
        sys.stdout.write(f"the service does not answer: {error}\n")
        return 1
    finally:
        connection.close()
    sys.stdout.write(f"{document.get('detail') or document.get('status')}\n")
    return 0 if response.status == http.HTTPStatus.OK else 1


if __name__ == "__main__":
    sys.exit(main())
