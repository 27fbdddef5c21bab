"""A configuration file and the environment, read into a `Config`."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from smtpproxy.config.environment import PREFIX, overlay
from smtpproxy.config.lines import KeyPath, dotted, line_of, locate, twice
from smtpproxy.config.model import Config
from smtpproxy.config.places import Places, origin_of
from smtpproxy.config.types import Reading, SocketName
from smtpproxy.config.wording import path_of, sentence, syntax
from smtpproxy.faults import Fault, Faults

DEFAULT_FILE = Path("/etc/smtpproxy/smtpproxy.toml")

_TWICE = ("Cannot overwrite a value", "Cannot declare ")  # as tomllib says it, of keys and tables

_CONTROL: TypeAdapter[str] = TypeAdapter(SocketName)


def config_file(named: str | None, environ: Mapping[str, str]) -> Path:
    """The file to read: the one named on the command line, else by SMTPPROXY_CONFIG, else ours."""
    return Path(named or environ.get("SMTPPROXY_CONFIG") or DEFAULT_FILE)


def load(path: Path, environ: Mapping[str, str]) -> Config:
    """The configuration in the file at `path`, with the SMTPPROXY_ variables of `environ`.

    File names in it become absolute; none of these files is opened. Raises `Faults` with
    all that is wrong in the file, by line, and in the environment.
    """
    data: dict[str, Any] = {}
    lines: dict[KeyPath, int] = {}
    broken: tuple[Fault, ...] = ()  # what keeps the file from being looked at further
    try:
        text = _read(path)
        data, lines = _parse(path, text), locate(text)
    except Faults as error:
        broken = error.faults
    origins, misnamed = overlay(data, environ)
    places = Places(path, lines, origins)
    config, wrong = _validate(data, path.absolute().parent)

    of_file: list[tuple[int, Fault]] = []
    of_environment = misnamed
    for key, text in wrong:
        fault = Fault(places.of(key), text)
        if origin_of(key, origins):
            of_environment.append(fault)
        elif not broken:
            of_file.append((line_of(key, lines) or 0, fault))
    of_file.sort(key=lambda each: each[0])
    faults = [*broken, *(fault for _, fault in of_file), *of_environment]
    if config is None or faults:
        raise Faults(faults)
    return config.written_at(places)


def load_control(path: Path, environ: Mapping[str, str]) -> str:
    """`control` alone, as `load` has it, whatever is wrong with all else; "" for none.

    Raises `Faults` where it is wrong itself, or where the file has to say it and is no TOML.
    """
    variable = f"{PREFIX}CONTROL"
    if variable in environ:
        data: dict[str, Any] = {}
        origins, faults = overlay(data, {variable: environ[variable]})
        if faults:
            raise Faults(faults)
        places = Places(path, origins=origins)
    else:
        text = _read(path)
        data = _parse(path, text)
        places = Places(path, locate(text))
    folder = Reading(path.absolute().parent)
    try:
        return _CONTROL.validate_python(data.get("control", ""), context=folder)
    except ValidationError as error:
        place = places.of(("control",))
        faults = [Fault(place, sentence(each)) for each in error.errors(include_url=False)]
        raise Faults(faults) from None


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig").replace("\r\n", "\n")
    except FileNotFoundError:
        text = "there is no such file: name another with --config or SMTPPROXY_CONFIG"
        raise Faults([Fault(str(path), text)]) from None
    except OSError as error:
        raise Faults([Fault(str(path), f"cannot be read: {error.strerror}")]) from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise Faults([Fault(f"{path}:{line}", "is not UTF-8: save the file as UTF-8")]) from None


def _parse(path: Path, text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        line, column, message = syntax(error)
        if message.startswith(_TWICE) and (found := twice(text)):
            key, first, again = found
            said = f"{dotted(key)} is there twice, in line {first} first: keep one of the two"
            raise Faults([Fault(f"{path}:{again}", said)]) from None
        place = f"{path}:{line}" if line else str(path)
        where = f"in column {column}" if column else "at its end"
        raise Faults([Fault(place, f"is not valid TOML {where}: {message}")]) from None


def _validate(
    data: dict[str, Any], folder: Path
) -> tuple[Config | None, list[tuple[KeyPath, str]]]:
    """The configuration, or what is wrong with it: path and sentence of each fault."""
    try:
        return Config.model_validate(data, context=Reading(folder)), []
    except ValidationError as error:
        errors = error.errors(include_url=False)
        return None, [(path_of(each), sentence(each)) for each in errors]
