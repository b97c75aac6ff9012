"""Keyframe codecs: frames to latents and back on their own, by Wan's autoencoder and by nano's."""

import copy
from collections.abc import Callable
from math import ceil
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan
from safetensors.torch import load_file

from tiny_networks import take_a_tensor_out
from worldstereo.errors import InputError
from worldstereo.models.autoencoder import KeyframeAutoencoder
from worldstereo.models.keyframe_codec import KeyframeCodec
from worldstereo.models.wan_codec import WanKeyframeCodec

HUB = Path(__file__).parent / "data" / "parity" / "hub"


def tiny_vae() -> AutoencoderKLWan:
    torch.manual_seed(0)
    return AutoencoderKLWan(base_dim=8, dim_mult=[1, 2, 2, 2], num_res_blocks=1).eval()


def tiny_autoencoder() -> KeyframeAutoencoder:
    """Every parameter random: as it is made, its residual blocks are the identity."""
    torch.manual_seed(0)
    model = KeyframeAutoencoder(
        latent_channels=4,
        encoder_channels=(16, 16, 24),
        encoder_blocks=(1, 0, 1),
        decoder_channels=(16, 16, 24),
        decoder_blocks=(1, 1, 0),
    )
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=max(parameter[0].numel(), 9) ** -0.5)
    model.fit_normalisation(model.encode_raw(pictures(8)))
    return model.eval()


def pictures(count: int, width: int = 48, height: int = 32) -> torch.Tensor:
    """Blobs of colour with some grain, in [0, 1]."""
    generator = torch.Generator().manual_seed(1)
    coarse = torch.rand(count, 3, height // 8, width // 8, generator=generator)
    grain = torch.rand(count, 3, height, width, generator=generator)
    return 0.8 * F.interpolate(coarse, (height, width), mode="bilinear") + 0.2 * grain


@pytest.fixture(params=["wan", "nano"])
def codec(request: pytest.FixtureRequest) -> KeyframeCodec:
    return WanKeyframeCodec(tiny_vae()) if request.param == "wan" else tiny_autoencoder()


def count_calls(module: torch.nn.Module) -> list[int]:
    """The batch size of every call of a module from now on."""
    sizes: list[int] = []
    module.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    return sizes


# --- what every codec keeps


def test_shapes_and_ranges(codec: KeyframeCodec):
    assert isinstance(codec, KeyframeCodec)
    latents = codec.encode(pictures(5))
    assert latents.shape == (5, codec.latent_channels, 4, 6)
    assert codec.spatial_factor == 8
    frames = codec.decode(latents * 10)
    assert frames.shape == (5, 3, 32, 48)
    assert frames.min() >= 0
    assert frames.max() <= 1
    assert not latents.requires_grad
    assert not frames.requires_grad


def test_each_frame_is_on_its_own(codec: KeyframeCodec):
    frames = pictures(6)
    latents = codec.encode(frames)
    decoded = codec.decode(latents)
    for i in range(6):
        torch.testing.assert_close(codec.encode(frames[i : i + 1])[0], latents[i], atol=1e-5, rtol=0)
        torch.testing.assert_close(codec.decode(latents[i : i + 1])[0], decoded[i], atol=1e-5, rtol=0)


def test_encoding_is_deterministic(codec: KeyframeCodec):
    assert torch.equal(codec.encode(pictures(3)), codec.encode(pictures(3)))


@pytest.mark.parametrize(("width", "height"), [(44, 32), (48, 30)])
def test_sizes_that_do_not_divide_are_refused(codec: KeyframeCodec, width: int, height: int):
    with pytest.raises(InputError, match=rf"frames of {width}×{height} pixels.* multiples of 8$"):
        codec.encode(torch.zeros(1, 3, height, width))


@pytest.mark.parametrize("make", [lambda dtype: WanKeyframeCodec(tiny_vae().to(dtype)), tiny_autoencoder().to])
def test_half_precision_stays_close(make: Callable[[torch.dtype], KeyframeCodec]):
    frames = pictures(2)
    exact = make(torch.float32)
    latents = exact.encode(frames)
    decoded = exact.decode(latents)
    coarse = make(torch.bfloat16)
    assert coarse.encode(frames.bfloat16()).dtype == torch.bfloat16
    assert coarse.encode(frames).dtype == torch.float32  # as given, whatever the codec computes in
    torch.testing.assert_close(coarse.encode(frames), latents, atol=0.1, rtol=0)
    torch.testing.assert_close(coarse.decode(latents), decoded, atol=0.1, rtol=0)


# --- Wan's autoencoder


@pytest.mark.parametrize("pipeline", ["camera", "memory", "memory-dmd"])
def test_decodes_as_the_official_pipelines(pipeline: str):
    official = load_file(HUB / "io.safetensors")
    latents = official[f"out.worldstereo-{pipeline}.latents"][0].transpose(0, 1)
    frames = WanKeyframeCodec.from_pretrained(HUB / "base").decode(latents)
    torch.testing.assert_close(frames, official[f"out.worldstereo-{pipeline}.frames_f16"][0].float(), atol=1e-3, rtol=0)


def test_latents_are_the_normalised_mode():
    vae, untouched = tiny_vae(), tiny_vae()
    codec, frames = WanKeyframeCodec(vae), pictures(1)
    mean = torch.tensor(vae.config.latents_mean).view(1, 16, 1, 1)
    std = torch.tensor(vae.config.latents_std).view(1, 16, 1, 1)
    with torch.no_grad():
        mode = untouched.encode(frames[:, :, None] * 2 - 1).latent_dist.mode()[:, :, 0]
        sample = untouched.decode(mode[:, :, None]).sample[:, :, 0]
    latents = codec.encode(frames)
    torch.testing.assert_close(latents * std + mean, mode, atol=1e-5, rtol=0)
    torch.testing.assert_close(codec.decode(latents), (sample + 1) / 2, atol=1e-5, rtol=0)


@pytest.mark.parametrize("frames_per_batch", [1, 4, 8, 21])
def test_frames_share_forward_calls(frames_per_batch: int):
    codec = WanKeyframeCodec(tiny_vae(), frames_per_batch)
    encoded, decoded = count_calls(codec.vae.encoder), count_calls(codec.vae.decoder)
    codec.decode(codec.encode(pictures(21, 16, 16)))
    assert len(encoded) == len(decoded) == ceil(21 / frames_per_batch)
    assert sum(encoded) == sum(decoded) == 21


def test_leaving_out_the_padding_in_time_changes_nothing():
    vae = tiny_vae()
    untouched = copy.deepcopy(vae)
    WanKeyframeCodec(vae)
    video = pictures(9, 32, 32).transpose(0, 1)[None] * 2 - 1
    with torch.no_grad():
        for part in (video[:, :, :1], video):
            latents = untouched.encode(part).latent_dist.mode()
            torch.testing.assert_close(vae.encode(part).latent_dist.mode(), latents, atol=1e-5, rtol=0)
            decoded = untouched.decode(latents).sample
            torch.testing.assert_close(vae.decode(latents).sample, decoded, atol=1e-5, rtol=0)


def test_a_video_is_encoded_four_frames_a_latent():
    codec, frames = WanKeyframeCodec(tiny_vae()), pictures(9)
    latents = codec.encode_video(frames)
    assert latents.shape == (3, 16, 4, 6)
    torch.testing.assert_close(latents[:1], codec.encode(frames[:1]), atol=1e-5, rtol=0)
    later = frames.clone()
    later[5:] = 0.5
    changed = codec.encode_video(later)
    torch.testing.assert_close(changed[:2], latents[:2], atol=1e-5, rtol=0)  # causal
    assert (changed[2] - latents[2]).abs().max() > 1e-3


@pytest.mark.parametrize("count", [0, 4, 8, 80])
def test_videos_of_other_lengths_are_refused(count: int):
    with pytest.raises(InputError, match=rf"a video of {count} frames .* 4·k \+ 1"):
        WanKeyframeCodec(tiny_vae()).encode_video(torch.zeros(count, 3, 16, 16))


def test_tiles_blend_into_nearly_the_same():
    frames = pictures(2, 448, 272)
    whole = WanKeyframeCodec(tiny_vae())
    tiled = WanKeyframeCodec(tiny_vae(), tiled=True)
    latents = whole.encode(frames)
    decoded = whole.decode(latents)
    assert tiled.encode(frames).shape == latents.shape
    assert (tiled.encode(frames) - latents).abs().mean() < 0.02 * latents.std()
    assert (tiled.decode(latents) - decoded).abs().mean() < 0.25 * decoded.std()  # random weights: fine noise
    small = pictures(1, 256, 256)
    assert torch.equal(tiled.encode(small), whole.encode(small))  # a picture of one tile


def test_no_frames_per_batch_is_refused():
    with pytest.raises(InputError, match="frames_per_batch must be at least 1"):
        WanKeyframeCodec(tiny_vae(), frames_per_batch=0)


def test_wan_is_read_from_a_folder(tmp_path: Path):
    vae = tiny_vae()
    vae.save_pretrained(tmp_path / "vae")
    read = WanKeyframeCodec.from_pretrained(tmp_path, local_files_only=True)
    assert torch.equal(read.encode(pictures(1)), WanKeyframeCodec(vae).encode(pictures(1)))
    assert WanKeyframeCodec.from_pretrained(tmp_path, dtype=torch.bfloat16).vae.dtype == torch.bfloat16
    with pytest.raises(InputError, match="the Wan autoencoder in its subfolder 'other' cannot be loaded"):
        WanKeyframeCodec.from_pretrained(tmp_path, subfolder="other", local_files_only=True)
    take_a_tensor_out(tmp_path / "vae")
    with pytest.raises(InputError, match="the weights of this AutoencoderKLWan lack "):
        WanKeyframeCodec.from_pretrained(tmp_path, local_files_only=True)


# --- nano's autoencoder


def test_default_size():
    model = KeyframeAutoencoder()
    assert (model.spatial_factor, model.latent_channels) == (8, 16)
    assert 2e6 < sum(parameter.numel() for parameter in model.parameters()) < 3.5e6  # float16: below 7 MB


def test_fitted_latents_have_unit_variance():
    model, frames = tiny_autoencoder(), pictures(8)
    raw = model.encode_raw(frames)
    model.fit_normalisation(raw)
    latents = model.encode(frames)
    torch.testing.assert_close(latents.mean(dim=(0, 2, 3)), torch.zeros(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(latents.std(dim=(0, 2, 3)), torch.ones(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(model.decode(latents), model.decode_raw(raw).clamp(0, 1), atol=1e-5, rtol=0)


def test_a_channel_that_never_changes_is_normalised_to_zero():
    model = tiny_autoencoder()
    model.fit_normalisation(torch.full((2, 4, 3, 3), 0.25))
    assert torch.equal(model.latent_mean, torch.full((4,), 0.25))
    assert model.latent_std.min() > 0


def test_flat_colour_is_flat_in_the_latents():
    model, color = tiny_autoencoder(), torch.tensor([0.8, 0.3, 0.1]).view(1, 3, 1, 1)
    latents = model.encode(color.expand(1, 3, 64, 96))
    corner = latents[:, :, :1, :1]
    torch.testing.assert_close(latents, corner.expand_as(latents), atol=1e-4, rtol=0)  # no border
    other = model.encode(color.expand(1, 3, 16, 24))
    torch.testing.assert_close(other, corner.expand_as(other), atol=1e-4, rtol=0)  # nor the picture's size


def test_far_parts_of_a_picture_do_not_matter():
    model, frame = tiny_autoencoder(), pictures(1, 256, 64)
    dark = frame.clone()
    dark[..., 128:] = 0
    torch.testing.assert_close(model.encode(dark)[..., :8], model.encode(frame)[..., :8], atol=1e-5, rtol=0)


def test_nano_is_saved_and_read_bit_for_bit(tmp_path: Path):
    model, frames = tiny_autoencoder(), pictures(3)
    model.save_pretrained(tmp_path)
    assert (tmp_path / "diffusion_pytorch_model.safetensors").is_file()
    read = KeyframeAutoencoder.from_pretrained(tmp_path)
    assert read.config.encoder_channels == [16, 16, 24]
    states = model.state_dict(), read.state_dict()
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    latents = model.encode(frames)
    assert torch.equal(read.encode(frames), latents)
    assert torch.equal(read.decode(latents), model.decode(latents))


def test_training_reaches_every_parameter():
    model = tiny_autoencoder().train()
    frames = pictures(2)
    reconstruction, latents = model(frames)
    assert reconstruction.shape == frames.shape
    assert latents.shape == (2, 4, 4, 6)
    (reconstruction - frames).square().mean().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in model.parameters())


@pytest.mark.parametrize(
    "sizes", [{"encoder_blocks": (1, 1)}, {"decoder_channels": (16,)}, {"encoder_channels": (), "encoder_blocks": ()}]
)
def test_levels_that_do_not_match_are_refused(sizes: dict[str, tuple[int, ...]]):
    with pytest.raises(InputError, match="as many channels as block counts"):
        KeyframeAutoencoder(**sizes)
