"""`python -m worldstereo`: the same as the command `worldstereo`."""

from worldstereo.cli import main

if __name__ == "__main__":
    main()
