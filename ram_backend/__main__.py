"""`python -m ram_backend` is the `ram-backend` command."""

from ram_backend.cli.main import main

if __name__ == "__main__":
    main()
