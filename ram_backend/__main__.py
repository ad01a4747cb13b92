"""`python -m ram_backend` and `ram-backend`: the command."""

import sys


def main() -> None:
    """Runs the command; Ctrl-C during the import is exit status 130, too."""
    try:
        from ram_backend.cli.main import main as run
    except KeyboardInterrupt:
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()
