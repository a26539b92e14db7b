"""The root command: imports a noun's file only when the noun is used, so that other commands start fast."""

import os
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import click
from click.shell_completion import CompletionItem

from fleetcore import __version__
from fleetcore.cli.encoding import tolerate
from fleetcore.cli.exits import exit_code, printable, report
from fleetcore.errors import FleetError, PluginError

#: Noun or verb → its file, and its line in ``--help``, which opens no file.
NOUNS = {
    "init": "Create a data folder: fleet.toml, the CA, the keys.",
    "serve": "Run the server: protocols, data path, detectors.",
    "demo": "Create a fleet, run devices on it over every protocol, and show what happened.",
    "simulate": "Run simulated devices against a server.",
    "top": "Watch the fleet: devices, traffic, alerts, campaigns, mirrors.",
    "doctor": "Check a data folder, and report problems and remedies.",
    "backup": "Copy a data folder, also of a running server, or verify a copy.",
    "adopt": "Complete a data folder of which a part has no fleet id, or is lost.",
    "restore": "Create a data folder from a backup.",
    "device": "Register, show and change devices.",
    "group": "Make groups, static or with a query, and list their members.",
    "edge": "Gateways, the devices behind them, and the functions that run on them.",
    "location": "Show where devices are.",
    "twin": "Show and change the desired state of a device.",
    "command": "Send commands to devices and follow them.",
    "firmware": "Sign firmware, and put it on the fleet.",
    "campaign": "Send firmware to devices, and follow them.",
    "health": "Show the health of the fleet, a group or a device, and its reasons.",
    "operation": "Follow and stop long operations.",
    "telemetry": "Show readings and anomalies, and import readings.",
    "quarantine": "Stored refused messages: show why, replay them, or discard them.",
    "event": "Follow the events of the fleet.",
    "enrollment": "Let devices enrol: keys, tokens, claim certificates, manufacturers' CAs.",
    "certificate": "List, show and revoke the certificates of devices.",
    "ca": "The CAs: expiry, revocation, rotation, new certificates for many devices.",
    "token": "Make, list and revoke tokens of the operators' API.",
    "audit": "Read and verify the audit log.",
    "mirror": "Show the fleet at cloud hubs, and pause, resume or repair mirrors.",
    "cutover": "Move devices from this fleet's endpoints to a cloud hub's, or back.",
    "storage": "Show the store's size, readings past their period, and what removed plugins left.",
    "plugin": "List plugins, or start a new one.",
}


#: Nouns to which plugins add verbs: of a gateway, what runs on the gateway itself.
GROWING = frozenset({"edge"})
#: The nouns that no plugin may use.
TAKEN = NOUNS.keys() - GROWING


class Root(click.Group):
    """Commands by name, loaded lazily; plugins may add nouns."""

    _words: Sequence[str] = ()

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return [*NOUNS, *sorted(self._added())]

    def _added(self) -> dict[str, click.Command]:
        """The nouns of the installed plugins, without those that the fleet disables."""
        return {noun: item for noun, item in self._from_plugins().items() if noun not in NOUNS}

    def _from_plugins(self) -> dict[str, click.Command]:
        from fleetcore.cli.connect import plugins_of

        return {noun: _guarded(noun, item) for noun, item in plugins_of(self._words).commands(TAKEN).items()}

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """As in click; the words are kept, because the fleet that they name decides which plugins exist."""
        self._words = tuple(args)
        return super().make_context(info_name, args, parent, **extra)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        if cmd_name in GROWING:
            return _with_verbs(_noun(cmd_name), self._from_plugins().get(cmd_name))
        if cmd_name in NOUNS:
            return _noun(cmd_name)
        return self._added().get(cmd_name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list for ``--help``, without opening a file."""
        del ctx
        added = {name: command.get_short_help_str(80) for name, command in sorted(self._added().items())}
        with formatter.section("Commands"):
            formatter.write_dl([*NOUNS.items(), *added.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Nouns and options that begin so, without opening a noun's file."""
        added = {name: command.get_short_help_str(80) for name, command in sorted(self._added().items())}
        nouns = [CompletionItem(name, help=said) for name, said in {**NOUNS, **added}.items()]
        return [item for item in nouns if item.value.startswith(incomplete)] + click.Command.shell_complete(
            self, ctx, incomplete
        )

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As in click; an unknown noun may belong to one of the fleet's plugins, else the nearest one is named."""
        import difflib

        if args and self.get_command(ctx, args[0]) is None and not args[0].startswith("-"):
            from fleetcore.cli import plugin_calls

            why = ""
            try:
                added = plugin_calls.noun(args)
            except FleetError as error:
                added, why = None, plugin_calls.reason(error)
            if added is not None:
                return args[0], added, args[1:]
            near = difflib.get_close_matches(args[0], self.list_commands(ctx), 1)
            hint = f" Did you mean {near[0]!r}?" if near else " `fleetcore --help` lists all."
            raise click.UsageError(f"Command {args[0]!r} does not exist.{hint}{why}", ctx)
        return super().resolve_command(ctx, args)


def _guarded(noun: str, command: click.Command) -> click.Command:
    """A plugin's command, whose errors become one line; ``sys.exit`` in it gives the exit code."""
    invoke = command.invoke

    def guarded(ctx: click.Context) -> Any:
        from fleetcore.interfaces.boundary import in_a_line

        try:
            return invoke(ctx)
        except (FleetError, click.ClickException, click.exceptions.Exit, click.exceptions.Abort, OSError):
            raise  # run() prints a line for each
        except Exception as error:
            raise PluginError(f"The command `fleetcore {noun}` of a plugin raised {in_a_line(error)}") from error

    command.invoke = guarded  # type: ignore[method-assign]  # the command is the plugin's, of whatever class
    return command


def _with_verbs(noun: click.Command, more: click.Command | None) -> click.Command:
    """A noun with the verbs that a plugin adds; its own stay."""
    if isinstance(noun, click.Group) and isinstance(more, click.Group):
        for name, verb in more.commands.items():
            if name not in noun.commands:
                noun.add_command(verb, name)
    return noun


def _noun(name: str) -> click.Command:
    """The noun's own commands, and those of its calls."""
    from fleetcore.cli.derived import add_commands
    from fleetcore.frontends.catalogue import core

    calls = core().nouns().get(name, ())
    if find_spec(f"fleetcore.cli.{name}") is None:
        command: click.Command = click.Group(name, help=NOUNS[name])
    else:
        command = getattr(import_module(f"fleetcore.cli.{name}"), name)
    if isinstance(command, click.Group):
        add_commands(command, name, calls)
    return command


@click.group(cls=Root, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="fleetcore %(version)s")
def root() -> None:
    """Manage an IoT device fleet."""


def _colour() -> bool | None:
    """False where the environment asks for plain text (no-color.org), as rich understands it; None for the default."""
    return False if os.environ.get("NO_COLOR") or os.environ.get("TERM") in ("dumb", "unknown") else None


def run(arguments: Sequence[str] | None = None) -> int:
    """Runs a command line; a FleetError becomes one line on stderr and an exit code of docs/reference/cli.md."""
    tolerate()
    try:
        result = root.main(arguments, prog_name="fleetcore", standalone_mode=False, color=_colour())
    except click.exceptions.Abort:
        return 130
    except click.ClickException as error:
        error.show()
        return 2
    except FleetError as error:
        report(error)
        return exit_code(error)
    except BrokenPipeError:
        return 1
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        click.echo(f"fleetcore: {printable(f'{error.strerror or error}{where}')}", err=True)
        return 1
    return result if isinstance(result, int) else 0
