"""Named sets of trajectories, in the order in which their clips are made.

Order matters: each clip adds to the memories that the next ones are made from, so small and central paths come first.
"""

PRESETS: dict[str, tuple[str, ...]] = {
    # A photo: the paper's order with amounts that a generator without a network carries well.
    "default": ("ellipse:0.06x0.08", "orbit-up:5", "orbit-right:8", "orbit-left:8"),
    # The one-image reconstruction benchmark of the paper (WorldStereo 2.0 examples: eloop, up, right, left).
    "paper": ("ellipse:0.3x0.4", "orbit-up:45", "orbit-right:140", "orbit-left:140"),
    # A panorama: look around from the centre, then leave it in three directions, 120° apart.
    "panorama": (
        "pan-right:120",
        "pan-left:120",
        "tilt-up:45+tilt-down:90",
        "dolly-in:0.3",
        "pan-right:120+dolly-in:0.3",
        "pan-left:120+dolly-in:0.3",
    ),
    # An object in the middle of the photo: around it on both sides and over it.
    "object": ("orbit-right:45", "orbit-left:45", "orbit-up:30"),
    # A street, a corridor, a large room: forward, then to both sides.
    "walk": ("dolly-in:0.3", "dolly-in:0.3+pan-right:45", "dolly-in:0.3+pan-left:45"),
    # Small shifts without turning, for parallax and stereo pictures.
    "parallax": ("truck-right:0.06", "truck-left:0.06", "pedestal-up:0.04", "dolly-in:0.1"),
}
