"""``python -m fleetcore_edge try MODULE --readings FILE [--config FILE]``: tries a function on a file of readings."""

import sys

from fleetcore_edge.runner.trying import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
