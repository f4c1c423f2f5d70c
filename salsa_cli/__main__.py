"""`python -m salsa_cli` is `salsa`."""

from salsa_cli.cli import main

if __name__ == "__main__":
    main()
