"""`python -m worldstereo.cli`."""

from worldstereo.cli import main

main()
