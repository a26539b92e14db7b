"""``python -m fleetcore``: the command line."""

from fleetcore.cli import main

main()
