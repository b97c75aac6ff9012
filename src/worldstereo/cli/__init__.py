"""The command line: one file a verb. Nothing heavy is imported before a verb runs."""

import os
import sys

import typer

from worldstereo.cli import batch, distill, evaluate, export, extend, generate, info, preview, reconstruct, train, view
from worldstereo.errors import InputError

_INTERRUPTED = 130  # typer's exit code after Ctrl-C

app = typer.Typer(
    name="worldstereo",
    help="From one photograph or 360° panorama: consistent videos along exact camera paths, and a 3D scene.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("generate")(generate.generate)
app.command("preview")(preview.preview)
app.command("extend")(extend.extend)
app.command("reconstruct")(reconstruct.reconstruct)
app.command("batch")(batch.batch)
app.command("view")(view.view)
app.command("export")(export.export)
app.command("info")(info.info)
app.add_typer(train.app, name="train")
app.command("distill")(distill.distill)
app.add_typer(evaluate.app, name="evaluate")


def main() -> None:
    """Run the command line; a user's error is one sentence and exit code 2.

    Threads of this process that wait for each other sleep instead of spinning (read when torch is loaded, after
    this): beside one other busy process on 2 cores a clip took 68 s with spinning threads and 16 s without.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding="utf-8", errors="replace")
    try:
        app()
    except InputError as error:
        print(f"worldstereo: {error}", file=sys.stderr)
        sys.exit(2)
    except SystemExit as ended:
        if ended.code == _INTERRUPTED:
            print("\nworldstereo: stopped; run the same command again to go on where it stopped", file=sys.stderr)
        raise
