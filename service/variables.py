"""Environment variables that look like settings and are none.

A service whose ``TESSERA_API_KEYS`` was mistyped would be open to all, so such a variable ends the start.
What Kubernetes sets by itself for a Service called ``tessera`` is told from a mistake.
"""

import difflib
import re
from collections.abc import Mapping

from service.errors import did_you_mean, quoted
from service.settings import PREFIX, Settings, variable

# What the trainer reads: one file of variables may be for both.
OF_THE_TRAINER = frozenset({"TESSERA_DATA", "TESSERA_RELOAD_URL"})
# What Kubernetes sets for each Service of a namespace, unless a pod has enableServiceLinks: false.
_SERVICE_LINK = re.compile(
    r"TESSERA_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_\w+)?)"
)
_ADDRESS = re.compile(r"(tcp|udp|sctp)://")
# How alike a name and a setting's are if one is the other, mistyped before the underscore.
_ALIKE = 0.93
_LONGEST = 64


def unknown_variables(environment: Mapping[str, str]) -> list[str]:
    """A complaint for each variable that looks like a setting's and is none."""
    names = {variable(name) for name in Settings.model_fields}
    return [
        complaint
        for name, value in sorted(environment.items())
        if (complaint := _complaint(name, value, names)) is not None
    ]


def _complaint(name: str, value: str, names: set[str]) -> str | None:
    # Case does not matter to pydantic-settings either.
    upper = name.upper()
    linked = upper.endswith("_PORT") and _ADDRESS.match(value)
    if upper.startswith(PREFIX) and (_SERVICE_LINK.fullmatch(upper) or linked):
        return (
            f"{quoted(name)} is set by Kubernetes for a Service of that name; keep it out with "
            "enableServiceLinks: false in the pod's spec, or name the Service otherwise"
        )
    if upper in names or upper in OF_THE_TRAINER:
        return None
    if upper.startswith(PREFIX):
        return f"the variable {quoted(name)} is no setting{did_you_mean(upper[:_LONGEST], names)}"
    near = difflib.get_close_matches(upper, names, n=1, cutoff=_ALIKE) if len(upper) < _LONGEST else []
    return f"the variable {quoted(name)} is no setting; did you mean {near[0]!r}?" if near else None
