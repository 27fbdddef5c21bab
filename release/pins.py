"""Writes requirements.txt anew: the newest of each dependency, with the hashes of its wheels."""

from __future__ import annotations

import configparser
import shutil
import tempfile
from collections import defaultdict
from pathlib import Path

from release.wheels import EXTRAS, REQUIREMENTS, ROOT, TOOLS, NotMade, pip, sha256, targets

_HEADER = "# Written by `make pins`.\n"


def write_pins(cache: Path) -> None:
    """Both files; the wheels go to `cache`, where `make release` finds them."""
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    needed = [parser["options"]["install_requires"]]
    needed += [parser["options.extras_require"][each] for each in EXTRAS]
    _pin(REQUIREMENTS, "".join(needed), cache)
    _pin(TOOLS, "pip\nsetuptools\n", cache)


def _pin(file: Path, needed: str, cache: Path) -> None:
    cache.mkdir(parents=True, exist_ok=True)
    found: defaultdict[str, set[str]] = defaultdict(set)
    with tempfile.TemporaryDirectory() as name:
        asked = Path(name, "needed.txt")
        asked.write_text(needed, encoding="utf-8")
        for options in targets():
            pip("download", "--only-binary=:all:", *options, f"--dest={name}", "-r", asked)
        for wheel in sorted(Path(name).glob("*.whl")):
            project, version = wheel.name.split("-")[:2]
            found[f"{project.replace('_', '-').lower()}=={version}"].add(sha256(wheel))
            shutil.copy(wheel, cache)
    projects = [pin.partition("==")[0] for pin in found]
    if twice := {each for each in projects if projects.count(each) > 1}:
        raise NotMade(f"not the same version for each Python: {', '.join(sorted(twice))}")
    lines = [
        " \\\n".join([pin, *(f"    --hash=sha256:{each}" for each in sorted(found[pin]))])
        for pin in sorted(found)
    ]
    file.write_text("\n".join([_HEADER, *lines, ""]), encoding="utf-8")
