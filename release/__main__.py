"""`python -m release` makes the tarball in dist/.

`python -m release pins` chooses the wheels, and `python -m release epoch` says of when it all is.
"""

from __future__ import annotations

import sys

from release.pins import write_pins
from release.tarball import make_tarball, source_date_epoch
from release.wheels import ROOT, NotMade

CACHE = ROOT / "build" / "wheels"


def main(arguments: list[str]) -> int:
    try:
        match arguments:
            case []:
                tarball = make_tarball(CACHE, ROOT / "dist")
                print(f"{tarball.relative_to(ROOT)}: {tarball.stat().st_size / 1e6:.1f} MB")
            case ["epoch"]:
                print(source_date_epoch())
            case ["pins"]:
                write_pins(CACHE)
            case _:
                print(__doc__, file=sys.stderr)
                return 2
    except NotMade as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
