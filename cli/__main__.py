"""Lets `python -m cli` be the `clover` command."""

from cli.main import main

if __name__ == "__main__":
    main()
