"""``python -m tracerft`` is the command ``tracerft``."""

from tracerft.cli.main import main

if __name__ == "__main__":
    main()
