"""Print how much of each wing the tests covered; exit with 1 if one is below the least.

python -m tests.covered 85    at least 85 % of the lines, after a run with coverage
"""

import io
import sys

import coverage

from tests.architecture.source import WINGS


def main(least: float) -> int:
    measured = coverage.Coverage()
    measured.load()
    shares = {wing: measured.report(include=[f"{wing}/*"], file=io.StringIO()) for wing in WINGS}
    for wing, share in shares.items():
        below = f"  BELOW {least:.0f} %" if share < least else ""
        sys.stdout.write(f"{share:.1f} % of the lines of {wing}/ are covered{below}\n")
    return int(min(shares.values()) < least)


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1])))
