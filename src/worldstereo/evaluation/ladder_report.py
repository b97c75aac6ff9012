"""The ladder's table: its columns, rows, comparisons and what must be said beside them."""

from collections.abc import Sequence

from worldstereo.evaluation.ladder_figures import FIGURES
from worldstereo.evaluation.protocol import Comparison, Protocol, Reference, Result
from worldstereo.evaluation.report_table import Mean
from worldstereo.evaluation.rungs import TRUTH, WITHOUT_MEMORY, WITHOUT_STEREO, Rung

_NOTES = """\
Means over clips ± standard error, without each clip's first frame, which is given. PSNR in dB of all pixels of a
clip together. "Known" pixels are those where the cloud of the first frame shows something; "seen holes" are holes of it
that the pixel's own reference or a frame that grew the cloud shows; "holes that only references show" are holes of
the grown cloud too; "unseen holes" are what no frame in memory shows: there, PSNR favours smooth guesses, gradient
energy and seam are relative to the truth (1 = the truth's), and texture and colour distance are 0 for the truth.
Revisit PSNR: two clips whose paths meet, made one after the other, the second compared with the first moved by true
depth; "invented" is what the first picture did not show. RotErr and TransErr (mean, of the path's length): cameras that
direct alignment of the true surfaces with the frames finds, starting from the commanded ones, unaligned; those not
found are counted. Depth given to the memories is exact (procedural), stored with the capture, or estimated, as stated;
never that of generated frames. "s per clip" is the generator alone."""


def ladder_protocol(rungs: Sequence[Rung]) -> Protocol:
    """The ladder with these rungs; differences are from pull-push of the same cloud, and from the model without stereo
    branch or memory."""
    return Protocol(
        name="ladder",
        title="Ladder",
        item="clip",
        figures=FIGURES,
        rows=(Reference(TRUTH), *rungs),
        notes=_NOTES,
        comparisons=(
            Comparison("pull-push of the same cloud"),
            Comparison(WITHOUT_STEREO, WITHOUT_STEREO),
            Comparison(WITHOUT_MEMORY, WITHOUT_MEMORY),
        ),
        about=_about,
    )


def _about(clips: Sequence[Result]) -> str:
    """Where depth comes from, and how many pixels there are of each kind."""
    sources = sorted({clip["depth"] for clip in clips})
    shares = {name: Mean.of(clip["shares"][name] for clip in clips) for name in clips[0]["shares"]}
    parts = ", ".join(f"{name} {100 * mean.value:.1f} %" for name, mean in shares.items() if mean is not None)
    names = ", ".join(clip["name"] for clip in clips)
    return f"Depth: {', '.join(sources)}. Pixels: {parts}. Clips: {names}."
