"""`worldstereo evaluate`: figures against truth."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Measure against truth.", no_args_is_help=True)


@app.callback()
def _evaluate() -> None:
    """Keep `depth` a sub-command although it is the only one."""
