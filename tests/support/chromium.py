"""A real browser without a window, and the pictures it makes."""

from __future__ import annotations

import subprocess
from pathlib import Path

from PIL import Image

from tests.support.layers import ROOT
from tests.support.needs import missing

FILES = Path("usr/lib/chromium")  # below the system's root, or where tests/install-parts unpacks it
TIME = 90.0  # seconds


class Browser:
    """Chromium, with a profile of its own in `folder`; skips or fails the test without it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        roots = (ROOT / ".venv" / "chromium", Path("/"))
        found = [root / FILES for root in roots if (root / FILES / "icudtl.dat").exists()]
        if not found:
            missing("needs chromium-headless-shell: make deps unpacks it, as root")
        self._program = found[0] / "chromium-headless-shell"

    def picture(self, address: str, name: str, width: int, height: int, dark: bool) -> Image.Image:
        """What the page looks like in a window of that size; it stays in `folder`, too."""
        file = self._folder / f"{name}.png"
        self._run(
            f"--screenshot={file}",
            f"--window-size={width},{height}",
            f"--blink-settings=preferredColorScheme={0 if dark else 1}",
            address,
        )
        return Image.open(file).convert("RGB")

    def document(self, address: str) -> str:
        """The page as it is once its scripts have run."""
        return self._run("--dump-dom", address)

    def _run(self, *arguments: str) -> str:
        command = [str(self._program), "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        command += [f"--user-data-dir={self._folder / 'profile'}", *arguments]
        ran = subprocess.run(command, capture_output=True, text=True, timeout=TIME, check=True)
        return ran.stdout
