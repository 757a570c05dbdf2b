"""`python -m backfill`."""

from backfill.cli.app import main

if __name__ == "__main__":
    main()
