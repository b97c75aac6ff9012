"""No damaged file makes a reader fail with anything but one clear sentence; `benchmarks/fuzz_readers.py` tries more."""

import json

import numpy as np
import pytest

from fuzzing import TARGETS, fuzz
from tiny_networks import take_a_tensor_out
from worldstereo.errors import InputError

COUNT = 200


@pytest.mark.parametrize("name", TARGETS)
def test_damaged_files_are_read_or_refused(tmp_path, name):
    outcome = fuzz(name, COUNT, 0, tmp_path)
    assert outcome.read + outcome.refused == COUNT
    assert outcome.refused > COUNT // 20  # the damage is real
    assert outcome.slowest < 5


# What was found by damaging more of them


def refused(name, path, message):
    """The reader of that name refuses the file."""
    with pytest.raises(InputError, match=message) as caught:
        TARGETS[name].read(path)
    assert str(path.parent) in str(caught.value)


def test_a_pose_that_is_no_text(tmp_path):
    path = TARGETS["7-Scenes"].make(tmp_path)[0]
    path.write_bytes(b"\x80" + path.read_bytes())
    refused("7-Scenes", path, "must hold numbers only")


@pytest.mark.parametrize("entries", [(2.0, 1.0, 2.0), (-2.0, 2.0, 2.0), (0.0, 0.0, 0.0)])
def test_a_transform_that_is_no_similarity(tmp_path, entries):
    path = TARGETS["Tanks and Temples"].make(tmp_path)[1]
    np.savetxt(path, np.diag([*entries, 1.0]))
    refused("Tanks and Temples", path, "is no similarity")


def test_an_archive_whose_member_is_none(tmp_path):
    (path,) = TARGETS["points npz"].make(tmp_path)
    content = path.read_bytes()
    path.write_bytes(content.replace(b"PK\x03\x04", b"PK\x03\x09", 1))
    refused("points npz", path, "must be an npz with the array")


@pytest.mark.parametrize("change", [{"widths": [8] * 4}, {"blocks": [10**12] + [0] * 4}, {"widths": [10**6] * 5}])
def test_a_depth_network_of_sizes_that_none_has(tmp_path, change):
    path = TARGETS["depth network"].make(tmp_path)[0]
    values = json.loads(path.read_text())["network"]
    path.write_text(json.dumps({"network": values | change}))
    refused("depth network", path, "a depth network has")


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("backbone", {"num_layers": 10**12}, "'num_layers' is 1000000000000, beyond any network"),
        ("control", {"ffn_dim": float("inf")}, "'ffn_dim' is inf, beyond any network"),
        ("stereo", {"dim": "wide"}, "damaged or of another kind of model"),
        ("autoencoder", {"encoder_blocks": [1]}, "as many channels as block counts"),
        (".", {"guidance_scale": "much"}, "damaged or of another kind of model"),
        (".", {"nframe": 1}, "'nframe' is 1 but must be a whole number from 2 to 1000"),
        (".", {"nframe": 10**12}, "'nframe' is 1000000000000 but must"),
        (".", {"nframe": 5.0}, "'nframe' is 5.0 but must"),
        (".", {"scale_map": 3}, "'scale_map' is 3 but must list"),
        (".", {"scale_map": []}, "'scale_map' is .* but must list"),
        (".", {"scale_map": [[64, 96], [64]]}, "'scale_map' is .* but must list"),
        (".", {"scale_map": [[64, 0]]}, r"pairs of whole numbers from 16 to 4096"),
        (".", {"scale_map": [[64, 10**9]]}, "'scale_map' is .* but must list"),
        (".", {"scale_map": [[64, 96.5]]}, "'scale_map' is .* but must list"),
        (".", {"latent_cond_mode": "half_vae"}, "'latent_cond_mode' is 'half_vae' but must be one of full_vae, "),
    ],
)
def test_a_model_whose_configuration_is_wrong(tmp_path, part, change, message):
    TARGETS["model"].make(tmp_path)
    path = tmp_path / "tiny" / part / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    refused("model", tmp_path / "tiny" / "config.json", message)


@pytest.mark.parametrize("part", ["backbone", "control", "stereo", "autoencoder"])
def test_a_model_that_lacks_a_tensor_is_not_left_random(tmp_path, part):
    TARGETS["model"].make(tmp_path)
    take_a_tensor_out(tmp_path / "tiny" / part)
    refused("model", tmp_path / "tiny" / "config.json", f"{part}: the weights of this .* lack ")
