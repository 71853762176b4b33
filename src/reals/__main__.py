"""The command line's light half: hands the command to a process that has its imports ready, or runs it here."""

import sys

from reals.machine import handover


def main() -> None:
    code = handover.submit(sys.argv[1:])
    if code is None:
        from reals.cli.main import main as run

        code = run(sys.argv[1:])
    sys.exit(code)


if __name__ == "__main__":
    main()
