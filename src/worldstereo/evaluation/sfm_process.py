"""The process that runs pycolmap: `python -m worldstereo.evaluation.sfm_process FOLDER`; see `structure_from_motion`.

FOLDER holds `job.json` and `frames/NNNN.png`; `poses.json`, `cam_from_world` by frame number, is written into it.
"""

import json
import sys
from pathlib import Path

_FIRST_PAIR, _NEXT_FRAME, _FEWEST_MATCHES = 30, 15, 10


def main(folder: Path) -> None:
    """Reconstruct the frames."""
    import pycolmap

    job = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    database, frames = folder / "database.db", folder / "frames"
    pycolmap.set_random_seed(job["seed"])
    for lens in job["lenses"]:
        reader = pycolmap.ImageReaderOptions()
        reader.camera_model = "PINHOLE"
        reader.camera_params = ",".join(str(value) for value in lens["parameters"])
        extraction = pycolmap.FeatureExtractionOptions()
        extraction.use_gpu, extraction.num_threads = False, 1
        names = [f"{number:04d}.png" for number in lens["frames"]]
        pycolmap.extract_features(
            database,
            frames,
            image_names=names,
            camera_mode=pycolmap.CameraMode.SINGLE,
            reader_options=reader,
            extraction_options=extraction,
        )
    matching = pycolmap.FeatureMatchingOptions()
    matching.use_gpu, matching.num_threads = False, 1
    pycolmap.match_exhaustive(database, matching_options=matching)
    options = pycolmap.IncrementalPipelineOptions()
    options.ba_refine_focal_length = options.ba_refine_principal_point = options.ba_refine_extra_params = False
    options.min_num_matches, options.min_model_size, options.num_threads = _FEWEST_MATCHES, 3, 1
    options.random_seed = options.mapper.random_seed = job["seed"]
    options.mapper.init_min_num_inliers, options.mapper.abs_pose_min_num_inliers = _FIRST_PAIR, _NEXT_FRAME
    found = pycolmap.incremental_mapping(database, frames, folder / "sparse", options)
    poses = {}
    if found:
        best = max(found.values(), key=lambda model: model.num_reg_images())
        for image in best.images.values():
            if image.has_pose:
                matrix = image.cam_from_world().matrix().tolist()
                poses[str(int(Path(image.name).stem))] = [*matrix, [0.0, 0.0, 0.0, 1.0]]
    (folder / "poses.json").write_text(json.dumps(poses), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
