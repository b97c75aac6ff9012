"""The viewer in the browser, on viser: look at a world, compare it with its clips, extend it along a drawn path.

`server.py` wires everything to one server, `guard.py` keeps foreign pages out, and `view_space.py` is the border to
viser's units and poses. `levels.py` cuts points into parts, coarse first; `scene_layers.py` shows them, splats and
mesh. `camera_layer.py` draws frusta, `standing.py` stands at a camera, `compare.py` lays its picture over the view,
`player.py` keeps time, and `clip_panel.py` has the controls of all that. `path_draft.py` is a path through keyframes,
without a browser; `path_panel.py` draws and edits it. `jobs.py` runs one long job at a time.
"""
