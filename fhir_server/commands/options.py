"""What all commands share: options that are settings, the running server found, and faults in one line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click
import structlog
from marshmallow import fields

from fhir_server.server import private
from fhir_server.server.settings import DECLARED, Declared, Settings, refuse_password

log = structlog.get_logger("vigie.command")

_F = TypeVar("_F", bound=Callable[..., Any])

DATA = ("data", "database", "database_file", "secret_file", "objects", "checkpoints")
"""Settings that say where the data is: options of every command that looks at it."""


class Commands(click.Group):
    """The group of all commands: its files are private, and what goes wrong outside the program is one line."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command with private files, and tell a fault of the environment in one line."""
        private.begin()
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except Exception as error:  # noqa: BLE001 - whatever it was, it is told in one place
            raise click.ClickException(_line_of(error)) from None


def options(*names: str) -> Callable[[_F], _F]:
    """Make these settings, declared as flags, options of a command; one that is not given is None."""

    def decorate(command: _F) -> _F:
        for name in reversed(names):
            if not DECLARED[name].flag:
                raise LookupError(f"{name} is not declared as a flag")
            command = _option(DECLARED[name])(command)
        return command

    return decorate


def settings_of(**flags: Any) -> Settings:
    """The settings that flags and environment say. Raises SettingsError."""
    refuse_password(flags.get("database"))
    return Settings.load(flags).checked()


def settings_here(**flags: Any) -> Settings:
    """The same, completed by what the server that runs on the data folder says of itself. Flags win."""
    from fhir_server.server import running

    settings = settings_of(**flags)
    found = running.find(settings.data)
    if found is None:
        return settings
    known = dict(found.overrides())
    if any(flags.get(name) is not None for name in ("database", "database_file")) or settings.database:
        known.pop("database", None)
    given = {name: value for name, value in flags.items() if value is not None}
    if {"host", "port"} & given.keys():  # another server than the one that is told of
        known.pop("base_urls", None)
    return Settings.load(known | given).checked()


def _option(declared: Declared) -> Callable[[_F], _F]:
    flag = "--" + declared.name.replace("_", "-")
    text = declared.doc.replace("`", "")
    if isinstance(declared.kind, fields.Boolean):
        return click.option(flag, declared.name, is_flag=True, default=None, help=text)
    default = f" [{declared.variable}; default: {declared.text(declared.default)}]" if declared.default != "" else ""
    metavar = "NUMBER" if isinstance(declared.kind, fields.Integer) else "TEXT"
    return click.option(flag, declared.name, metavar=metavar, help=text + default)


def _line_of(error: Exception) -> str:
    from fhir_server.server import faults

    line = faults.line_of(error)
    if line is None:
        log.error("command failed", exc_info=error)
        line = f"it failed in a way that nobody foresaw ({type(error).__name__}); the trace is above"
    return line
