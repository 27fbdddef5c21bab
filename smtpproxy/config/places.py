"""Where each setting of a configuration was written, for those who find fault with it later."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from pathlib import Path

from smtpproxy.config.lines import KeyPath, dotted, line_of
from smtpproxy.values import value

Origins = dict[KeyPath, str]  # the variable that set what is at a path, or added it


@value
class Places:
    """The file, the lines of what stands in it, and the variables that overrule it.

    All are equal: two configurations that say the same are the same, wherever they say it.
    """

    file: Path | None = field(default=None, compare=False)
    lines: Mapping[KeyPath, int] = field(default_factory=dict, compare=False)
    origins: Origins = field(default_factory=dict, compare=False)

    def of(self, key: KeyPath) -> str:
        """`smtpproxy.toml:12: mappings[0].file`, `SMTPPROXY_MAPPINGS__0__FILE`."""
        if variable := origin_of(key, self.origins):
            whole = self.origins.get(key) == variable
            return variable if whole else f"{variable}: {dotted(key)}"
        if self.file is None:
            return dotted(key)
        line = line_of(key, self.lines)
        return f"{self.file}:{line}: {dotted(key)}" if line else f"{self.file}: {dotted(key)}"


def origin_of(path: KeyPath, origins: Origins) -> str | None:
    """The variable that set what is at `path`, None where the file did."""
    return next((origins[path[:n]] for n in range(len(path), 0, -1) if path[:n] in origins), None)
