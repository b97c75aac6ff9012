"""Reading and writing cameras in the formats of the field; everything is converted to `Cameras` at this border.

`docs/camera-files.md` describes the formats and `docs/conventions.md` the conventions.
"""

from worldstereo.cameras.files.camera_file import CameraFile as CameraFile
from worldstereo.cameras.files.colmap import write_colmap_binary as write_colmap_binary
from worldstereo.cameras.files.colmap import write_colmap_text as write_colmap_text
from worldstereo.cameras.files.colmap_points import ColmapPoints as ColmapPoints
from worldstereo.cameras.files.colmap_points import Observations as Observations
from worldstereo.cameras.files.colmap_points import read_colmap_points as read_colmap_points
from worldstereo.cameras.files.conventions import Convention as Convention
from worldstereo.cameras.files.detect import read_cameras as read_cameras
from worldstereo.cameras.files.official import write_official as write_official
from worldstereo.cameras.files.official import write_official_bank as write_official_bank
from worldstereo.cameras.files.official import write_world_mirror as write_world_mirror
from worldstereo.cameras.files.realestate10k import write_realestate10k as write_realestate10k
from worldstereo.cameras.files.scenes import OfficialScene as OfficialScene
from worldstereo.cameras.files.scenes import OfficialTrajectory as OfficialTrajectory
from worldstereo.cameras.files.scenes import read_official_scene as read_official_scene
from worldstereo.cameras.files.transforms import write_transforms as write_transforms
