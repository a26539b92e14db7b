"""The command line. ``fleetcore --version`` answers before anything is imported."""

import sys


def main() -> None:
    """The ``fleetcore`` command."""
    if sys.argv[1:] == ["--version"]:
        from fleetcore import __version__

        print(f"fleetcore {__version__}")  # noqa: T201 - the one thing this command says
        return
    try:
        from fleetcore.cli.root import run

        sys.exit(run())
    except KeyboardInterrupt:  # while importing: run() handles interrupts of a command
        sys.exit(130)
