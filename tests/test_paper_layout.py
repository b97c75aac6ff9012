"""The paper's networks: backbone, control branch and stereo branch together."""

import contextlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from worldstereo.models.attention import SplitAttentionCore
from worldstereo.models.control_branch import ControlBranch
from worldstereo.models.paper import PaperTransformer
from worldstereo.models.patches import PatchEmbedding
from worldstereo.models.stereo_branch import StereoBranch
from worldstereo.models.transformer import ClipCache, KeyframeTransformer

WIDTH = 48
LATENT = 4
FRAMES, ROWS, COLUMNS = 5, 6, 10  # of the latents
SIZE = ROWS * COLUMNS // 4
OF_TARGET = torch.tensor([-1, 0, 2, 1, 0])


def make_backbone(seed: int = 0, prediction: str = "velocity") -> KeyframeTransformer:
    torch.manual_seed(seed)
    return KeyframeTransformer(
        prediction=prediction,
        num_attention_heads=2,
        attention_head_dim=24,
        in_channels=2 * LATENT + 4,
        out_channels=LATENT,
        text_dim=20,
        freq_dim=32,
        ffn_dim=64,
        num_layers=4,
        image_dim=12,
        added_kv_proj_dim=WIDTH,
    ).eval()


def make_control(**fields: Any) -> ControlBranch:
    sizes: dict[str, Any] = {"conv_out_dim": WIDTH, "dim": 32, "ffn_dim": 48, "num_heads": 2, "num_layers": 3}
    sizes |= {"time_embed_dim": WIDTH, "mid_channels": 8, "in_channels": 2 * LATENT + 4, "out_channels": WIDTH}
    torch.manual_seed(1)
    return ControlBranch(**(sizes | fields)).eval()


def make_stereo(**fields: Any) -> StereoBranch:
    sizes: dict[str, Any] = {"conv_out_dim": WIDTH, "dim": 32, "ffn_dim": 48, "num_heads": 2, "num_layers": 2}
    sizes |= {"time_embed_dim": WIDTH, "in_channels": 2 * LATENT + 4, "latent_channels": LATENT, "out_channels": WIDTH}
    torch.manual_seed(2)
    return StereoBranch(**(sizes | fields)).eval()


def randomise(branch: nn.Module) -> None:
    """As if trained: nothing that is zero when new stays zero."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in branch.parameters():
            if not parameter.any():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / 10)


def make_model(trained: bool = True, **fields: Any) -> PaperTransformer:
    model = PaperTransformer(make_backbone(), make_control(), make_stereo(**fields))
    for branch in (model.control, model.stereo):
        if trained and branch is not None:
            randomise(branch)
    return model


def backbone_inputs(
    batch: int = 1, frames: int = FRAMES, rows: int = ROWS, columns: int = COLUMNS
) -> dict[str, Tensor]:
    torch.manual_seed(4)
    return {
        "hidden_states": torch.randn(batch, 2 * LATENT + 4, frames, rows, columns),
        "timestep": torch.full((batch,), 700.0),
        "encoder_hidden_states": torch.randn(batch, 7, 20),
        "encoder_hidden_states_image": torch.randn(batch, 3, 12),
    }


def stereo_inputs(
    batch: int = 1, of_target: Tensor = OF_TARGET, rows: int = ROWS, columns: int = COLUMNS
) -> dict[str, Tensor]:
    torch.manual_seed(5)
    frames, references = len(of_target), max(int(of_target.max()) + 1, 0)
    return {
        "reference_latent": torch.randn(batch, LATENT, references, rows, columns),
        "reference_of_target": of_target.repeat(batch, 1),
        "target_pointmap_latent": torch.randn(batch, LATENT, frames, rows, columns),
        "reference_pointmap_latent": torch.randn(batch, LATENT, references, rows, columns),
    }


def control_inputs(batch: int = 1, frames: int = FRAMES, rows: int = ROWS, columns: int = COLUMNS) -> dict[str, Tensor]:
    torch.manual_seed(6)
    return {
        "render_latent": torch.randn(batch, LATENT, frames, rows, columns),
        "render_mask": (torch.rand(batch, 1, frames, 8 * rows, 8 * columns) > 0.5).float(),
        "camera_embedding": torch.randn(batch, 6, frames, 8 * rows, 8 * columns),
    }


def all_inputs(batch: int = 1) -> dict[str, Tensor]:
    return backbone_inputs(batch) | control_inputs(batch) | stereo_inputs(batch)


@torch.no_grad()
def velocity(model: nn.Module, inputs: dict[str, Tensor], cache: ClipCache | None = None) -> Tensor:
    return model(**inputs, cache=cache).sample


@torch.no_grad()
def additions(branch: StereoBranch, inputs: dict[str, Tensor], hidden_states: Tensor | None = None) -> Tensor:
    """[block, sample, frame, token, channel]."""
    hidden = backbone_inputs(len(inputs["reference_latent"]))["hidden_states"]
    hidden = hidden if hidden_states is None else hidden_states
    embedding = torch.linspace(-1, 1, WIDTH).expand(len(hidden), WIDTH)
    found = list(branch(hidden, embedding=embedding, cache=ClipCache(), **inputs))
    return torch.stack(found).unflatten(2, (hidden.shape[2], -1))


@contextlib.contextmanager
def counted_calls(module: nn.Module | None) -> Iterator[list[tuple[str, int]]]:
    """The calls of all its parts: name, and number of samples that came in."""
    assert module is not None
    calls: list[tuple[str, int]] = []

    def count(name: str, inputs: tuple[Any, ...]) -> None:
        calls.append((name, len(inputs[0])))

    parts = [(name, part) for name, part in module.named_modules() if name and name != "shard"]
    hooks = [part.register_forward_pre_hook(lambda _, inputs, name=name: count(name, inputs)) for name, part in parts]
    yield calls
    for hook in hooks:
        hook.remove()


@pytest.fixture(scope="module")
def model() -> PaperTransformer:
    return make_model()


@pytest.fixture(scope="module")
def stereo(model: PaperTransformer) -> StereoBranch:
    assert model.stereo is not None
    return model.stereo


def test_new_branches_leave_the_backbone_as_it_is() -> None:
    model = make_model(trained=False)
    assert torch.equal(velocity(model, all_inputs()), velocity(model.backbone, backbone_inputs()))


@pytest.mark.parametrize(
    "name",
    [
        "render_latent",
        "render_mask",
        "camera_embedding",
        "reference_latent",
        "target_pointmap_latent",
        "reference_pointmap_latent",
    ],
)
def test_every_condition_counts(model: PaperTransformer, name: str) -> None:
    inputs = all_inputs()
    changed = inputs | {name: 1 - inputs[name]}
    assert not torch.allclose(velocity(model, changed), velocity(model, inputs), atol=1e-4)


def test_branches_add_up(model: PaperTransformer) -> None:
    inputs = all_inputs()
    alone = [
        velocity(PaperTransformer(model.backbone), inputs),
        velocity(PaperTransformer(model.backbone, control=model.control), inputs),
        velocity(PaperTransformer(model.backbone, stereo=model.stereo), inputs),
        velocity(model, inputs),
    ]
    assert torch.equal(alone[0], velocity(model.backbone, backbone_inputs()))
    assert all(not torch.allclose(a, b, atol=1e-4) for i, a in enumerate(alone) for b in alone[:i])


def test_a_target_sees_only_its_own_reference(stereo: StereoBranch) -> None:
    inputs = stereo_inputs()
    before = additions(stereo, inputs)
    for name in ("reference_latent", "reference_pointmap_latent"):
        changed = inputs[name].clone()
        changed[:, :, 1] += 1
        after = additions(stereo, inputs | {name: changed})
        assert (after == before).all(dim=(-1, -2)).all(dim=(0, 1)).tolist() == [True, True, True, False, True]


def test_a_target_sees_no_other_target(stereo: StereoBranch) -> None:
    hidden = backbone_inputs()["hidden_states"]
    changed = hidden.clone()
    changed[:, :, 2] += 1
    before, after = (additions(stereo, stereo_inputs(), states) for states in (hidden, changed))
    assert (after == before).all(dim=(-1, -2)).all(dim=(0, 1)).tolist() == [True, True, False, True, True]


def test_the_place_in_the_clip_does_not_matter(stereo: StereoBranch) -> None:
    inputs, hidden = stereo_inputs(), backbone_inputs()["hidden_states"]
    order = torch.tensor([3, 0, 4, 2, 1])
    moved = inputs | {
        "reference_of_target": OF_TARGET[None, order],
        "target_pointmap_latent": inputs["target_pointmap_latent"][:, :, order],
    }
    found = additions(stereo, moved, hidden[:, :, order])
    torch.testing.assert_close(found, additions(stereo, inputs, hidden)[:, :, order], atol=1e-6, rtol=0)


def test_a_masked_pair_adds_nothing_whatever_it_holds(stereo: StereoBranch) -> None:
    inputs = stereo_inputs()
    expected = additions(stereo, inputs)
    assert not expected[:, :, 0].any()
    assert all(expected[:, :, frame].any() for frame in range(1, FRAMES))
    hidden = backbone_inputs()["hidden_states"]
    hidden[:, :, 0] = torch.nan
    for name in ("reference_latent", "reference_pointmap_latent"):
        inputs[name] = torch.cat([inputs[name], torch.full_like(inputs[name][:, :, :1], torch.nan)], dim=2)
    inputs["target_pointmap_latent"][:, :, 0] = torch.nan
    assert torch.equal(additions(stereo, inputs, hidden), expected)


def test_nan_in_an_unused_reference_does_not_reach_gradients() -> None:
    stereo = make_stereo()
    randomise(stereo)
    inputs = stereo_inputs()
    unused = torch.full_like(inputs["reference_latent"][:, :, :1], torch.nan)
    inputs["reference_latent"] = torch.cat([inputs["reference_latent"], unused], dim=2)
    inputs["reference_pointmap_latent"] = torch.cat([inputs["reference_pointmap_latent"], unused], dim=2)
    hidden = backbone_inputs()["hidden_states"]
    sum(
        a.square().sum() for a in stereo(hidden, embedding=torch.ones(1, WIDTH), cache=ClipCache(), **inputs)
    ).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in stereo.parameters())


def test_without_any_useful_reference_nothing_is_computed(model: PaperTransformer) -> None:
    nowhere = torch.full((FRAMES,), -1)
    inputs = backbone_inputs() | stereo_inputs(of_target=nowhere)
    with counted_calls(model.stereo) as calls:
        found = velocity(PaperTransformer(model.backbone, stereo=model.stereo), inputs)
    assert torch.equal(found, velocity(model.backbone, backbone_inputs()))
    assert calls == []


def test_the_order_of_the_references_does_not_matter(stereo: StereoBranch) -> None:
    inputs = stereo_inputs()
    order = torch.tensor([2, 0, 1])
    place = torch.argsort(order)
    permuted = inputs | {
        "reference_latent": inputs["reference_latent"][:, :, order],
        "reference_pointmap_latent": inputs["reference_pointmap_latent"][:, :, order],
        "reference_of_target": torch.where(OF_TARGET < 0, OF_TARGET, place[OF_TARGET])[None],
    }
    torch.testing.assert_close(additions(stereo, permuted), additions(stereo, inputs), atol=1e-6, rtol=0)


def test_samples_do_not_mix(stereo: StereoBranch) -> None:
    inputs, hidden = stereo_inputs(batch=2), backbone_inputs(2)["hidden_states"]
    inputs["reference_of_target"][1] = torch.tensor([1, -1, 1, -1, 0])
    inputs["reference_latent"][1, :, 2] = torch.nan  # no reference of the second sample: it has only two
    both = additions(stereo, inputs, hidden)
    assert both.isfinite().all()
    for sample in range(2):
        own = {name: x[sample : sample + 1] for name, x in inputs.items()}
        alone = additions(stereo, own, hidden[sample : sample + 1])
        torch.testing.assert_close(both[:, sample : sample + 1], alone, atol=1e-6, rtol=0)


def test_a_branch_without_pointmaps_has_no_parameters_for_them() -> None:
    model = make_model(pointmaps=False)
    assert model.stereo is not None
    assert not any("pointmap" in name for name in model.stereo.state_dict())
    inputs = all_inputs()
    without = {name: value for name, value in inputs.items() if "pointmap" not in name}
    assert torch.equal(velocity(model, without), velocity(model, inputs))


def test_any_number_of_processes_makes_the_same_additions(stereo: StereoBranch) -> None:
    whole = additions(stereo, stereo_inputs()).flatten(2, 3)
    hidden, embedding = backbone_inputs()["hidden_states"], torch.linspace(-1, 1, WIDTH)[None]
    for processes in (2, 3, 5, 7):
        for rank in range(processes):
            hook = stereo.shard.register_forward_hook(
                lambda _module, _inputs, tokens, n=processes, r=rank: tokens.tensor_split(n, dim=1)[r]
            )
            with torch.no_grad(), counted_calls(stereo) as calls:
                found = list(stereo(hidden, embedding=embedding, cache=ClipCache(), **stereo_inputs()))
            hook.remove()
            assert all(pairs <= FRAMES // processes + 2 for name, pairs in calls if name == "blocks.0")
            expected = whole.tensor_split(processes, dim=2)[rank]
            if found:
                torch.testing.assert_close(torch.stack(found), expected, atol=1e-6, rtol=0)
            else:
                assert not expected.any()
    assert not any(isinstance(getattr(m, "processor", None), SplitAttentionCore) for m in stereo.modules())


def test_what_does_not_change_is_computed_once(model: PaperTransformer) -> None:
    cache, steps = ClipCache(), 3
    with counted_calls(model) as calls:
        for step in range(steps):
            inputs = all_inputs()
            inputs["hidden_states"][:, :LATENT] += step
            inputs["timestep"] -= 100.0 * step
            found = velocity(model, inputs, cache)
    embeddings = Counter(name for name, _ in calls if isinstance(model.get_submodule(name), PatchEmbedding))
    assert embeddings == {
        "backbone.patch_embedding": steps + 1,
        "control.controlnet_patch_embedding": steps + 1,
        "control.controlnet_mask_embedding.mask_zero_proj": 1,
        "stereo.patch_embedding": steps + 2,
        "stereo.pointmap_embedding": 2,
    }
    torch.testing.assert_close(found, velocity(model, inputs), atol=1e-6, rtol=0)


def test_the_branch_sees_the_stitched_pair(stereo: StereoBranch) -> None:
    """The parts embedded apart make what embedding the whole would."""
    inputs, hidden = stereo_inputs(), backbone_inputs()["hidden_states"]
    seen: list[Tensor] = []
    hook = stereo.blocks[0].register_forward_hook(lambda _block, args, _out: seen.append(args[0]))
    additions(stereo, inputs, hidden)
    hook.remove()
    latent = inputs["reference_latent"]
    reference = torch.cat([latent, torch.ones(1, 4, *latent.shape[2:]), latent], dim=1)
    with torch.no_grad():
        for pair, (frame, index) in enumerate([(1, 0), (2, 2), (3, 1), (4, 0)]):
            stitched = torch.cat([hidden[:, :, frame, None], reference[:, :, index, None]], dim=-1)
            maps = (
                inputs["target_pointmap_latent"][:, :, frame, None],
                inputs["reference_pointmap_latent"][:, :, index, None],
            )
            tokens = stereo.patch_embedding(stitched) + stereo.pointmap_embedding(torch.cat(maps, dim=-1))
            rows = stereo.proj_in(tokens).unflatten(1, (ROWS // 2, COLUMNS))
            expected = torch.cat([half.flatten(1, 2) for half in rows.chunk(2, dim=2)], dim=1)
            torch.testing.assert_close(seen[0][pair : pair + 1], expected, atol=1e-6, rtol=0)


def test_two_contexts_are_two_passes_with_one_run_of_the_branches(model: PaperTransformer) -> None:
    inputs = all_inputs(batch=2)
    names = ("encoder_hidden_states", "encoder_hidden_states_image")
    other = inputs | {name: -inputs[name] for name in names}
    both = inputs | {name: torch.cat([inputs[name], other[name]]) for name in names}
    expected = torch.cat([velocity(model, inputs), velocity(model, other)])
    torch.testing.assert_close(velocity(model, both), expected, atol=1e-6, rtol=0)


def test_gradients_reach_only_what_is_trained() -> None:
    model = make_model(trained=False)
    model.train_only("control", "stereo")
    model(**all_inputs()).sample.square().mean().backward()
    assert all(parameter.grad is None for parameter in model.backbone.parameters())
    for branch in (model.control, model.stereo):
        assert branch is not None
        assert all(projection.weight.grad.any() for projection in branch.proj_out)
    model.train_only("stereo")
    assert {name.split(".")[0] for name, p in model.named_parameters() if p.requires_grad} == {"stereo"}
    with pytest.raises(ValueError, match="no part memory"):
        model.train_only("memory")


def test_gradient_checkpointing_changes_nothing() -> None:
    gradients = []
    for checkpointing in (False, True):
        model = make_model()
        assert model.stereo is not None
        if checkpointing:
            model.stereo.enable_gradient_checkpointing()
        model(**all_inputs()).sample.square().mean().backward()
        gradients.append([parameter.grad for parameter in model.stereo.parameters()])
    assert all(g is not None and torch.allclose(g, h, atol=1e-7) for g, h in zip(*gradients, strict=True))


def test_the_branches_work_with_another_backbone(model: PaperTransformer) -> None:
    inputs, other = all_inputs(), make_backbone(seed=9)
    swapped = velocity(PaperTransformer(other, model.control, model.stereo), inputs)
    assert not torch.allclose(swapped, velocity(other, backbone_inputs()), atol=1e-4)
    assert not torch.allclose(swapped, velocity(model, inputs), atol=1e-4)


def test_branches_may_be_more_precise_than_the_backbone() -> None:
    model = make_model()
    model.backbone.to(torch.bfloat16)
    found = velocity(model, all_inputs())
    assert found.dtype == torch.bfloat16
    assert found.isfinite().all()


@pytest.mark.parametrize(("control", "stereo"), [(True, True), (True, False), (False, True), (False, False)])
def test_saved_and_loaded_again(model: PaperTransformer, control: bool, stereo: bool, tmp_path: Path) -> None:
    saved = PaperTransformer(model.backbone, model.control if control else None, model.stereo if stereo else None)
    saved.save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {name for name, _ in saved.named_children()}
    loaded = PaperTransformer.from_pretrained(tmp_path)
    assert not any(part.training for part in loaded.modules())
    weights = loaded.state_dict()
    assert weights.keys() == saved.state_dict().keys()
    assert all(torch.equal(weights[name], value) for name, value in saved.state_dict().items())
    # Not bit for bit: products are rounded according to where in memory the weights lie.
    torch.testing.assert_close(velocity(loaded, all_inputs()), velocity(saved, all_inputs()), atol=1e-5, rtol=0)


def test_loaded_in_another_precision(model: PaperTransformer, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    loaded = PaperTransformer.from_pretrained(tmp_path, torch_dtype=torch.bfloat16)
    assert loaded.stereo is not None
    assert {loaded.backbone.dtype_at_work, loaded.stereo.dtype} == {torch.bfloat16}


@pytest.mark.parametrize(("frames", "rows", "columns"), [(1, 2, 2), (3, 2, 14), (7, 10, 6)])
def test_other_sizes(model: PaperTransformer, frames: int, rows: int, columns: int) -> None:
    of_target = torch.arange(frames) % 3 - (1 if frames > 1 else 0)
    inputs = backbone_inputs(1, frames, rows, columns) | control_inputs(1, frames, rows, columns)
    found = velocity(model, inputs | stereo_inputs(1, of_target, rows, columns))
    assert found.shape == (1, LATENT, frames, rows, columns)
    assert found.isfinite().all()


def test_embeddings_as_wide_as_the_blocks_need_no_projection() -> None:
    stereo = make_stereo(conv_out_dim=32)
    assert not any("proj_in" in name for name in stereo.state_dict())
    randomise(stereo)
    assert additions(stereo, stereo_inputs()).any()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("render_latent", "control branch needs render_latent"),
        ("render_mask", "control branch needs render_mask"),
        ("camera_embedding", "control branch needs camera_embedding"),
        ("reference_latent", "stereo branch needs reference_latent"),
        ("reference_of_target", "stereo branch needs reference_of_target"),
        ("target_pointmap_latent", "target_pointmap_latent"),
        ("reference_pointmap_latent", "reference_pointmap_latent"),
    ],
)
def test_a_missing_condition_is_named(model: PaperTransformer, name: str, message: str) -> None:
    inputs = all_inputs()
    del inputs[name]
    with pytest.raises(ValueError, match=message):
        velocity(model, inputs)


def test_a_control_branch_without_rays_needs_none() -> None:
    model = PaperTransformer(make_backbone(), make_control(add_channels=1))
    inputs = backbone_inputs() | control_inputs()
    del inputs["camera_embedding"]
    assert torch.equal(velocity(model, inputs), velocity(model.backbone, backbone_inputs()))


def test_a_control_branch_without_rays_leaves_them_aside() -> None:
    model = PaperTransformer(make_backbone(), make_control(add_channels=1))
    nn.init.normal_(model.control.proj_out[0].weight)
    inputs = backbone_inputs() | control_inputs()
    expected = velocity(model, {name: value for name, value in inputs.items() if name != "camera_embedding"})
    assert torch.equal(velocity(model, inputs), expected)
    assert not torch.equal(expected, velocity(model.backbone, backbone_inputs()))


@pytest.mark.parametrize("of_target", [[-1, 0, 3, 1, 0], [-2, 0, 2, 1, 0]])
def test_a_reference_that_is_not_there_is_refused(stereo: StereoBranch, of_target: list[int]) -> None:
    with pytest.raises(ValueError, match="there are 3 references"):
        additions(stereo, stereo_inputs() | {"reference_of_target": torch.tensor([of_target])})


@pytest.mark.parametrize(
    "fields",
    [
        {"out_channels": 40},
        {"time_embed_dim": 40},
        {"num_layers": 5},
        {"patch_size": (1, 1, 1)},
        {"in_channels": 2 * LATENT + 1},
        {"latent_channels": 3},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_a_branch_that_does_not_fit_is_refused(fields: dict[str, Any]) -> None:
    name = next(iter(fields))
    with pytest.raises(ValueError, match=f"{name} of the stereo branch"):
        PaperTransformer(make_backbone(), stereo=make_stereo(**fields))
    if name in ("out_channels", "time_embed_dim", "num_layers", "patch_size"):
        with pytest.raises(ValueError, match=f"{name} of the control branch"):
            PaperTransformer(make_backbone(), control=make_control(**fields))


@pytest.mark.parametrize("fields", [{"patch_size": (2, 2, 2)}, {"in_channels": 7}], ids=["patch_size", "in_channels"])
def test_a_config_that_makes_no_sense_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(fields))):
        make_stereo(**fields)


def test_latents_that_are_not_whole_patches_are_refused(model: PaperTransformer) -> None:
    with pytest.raises(ValueError, match="cannot be cut into patches"):
        velocity(model, backbone_inputs(rows=5) | control_inputs(rows=5) | stereo_inputs(rows=5))


def test_the_residual_of_the_condition_latent_gives_a_velocity():
    """Without any residual the velocity leads from the noisy latents straight to the condition latents."""
    backbone = make_backbone(prediction="residual")
    torch.nn.init.zeros_(backbone.proj_out.weight)
    torch.nn.init.zeros_(backbone.proj_out.bias)
    states = torch.randn(1, 2 * LATENT + 4, 2, 4, 6)
    velocity = backbone(states, torch.tensor([400.0]), torch.randn(2, 3, 20)).sample
    clean = states[:, :LATENT] - 0.4 * velocity
    torch.testing.assert_close(clean, states[:, -LATENT:].expand(2, -1, -1, -1, -1))
    with pytest.raises(ValueError, match="prediction"):
        make_backbone(prediction="noise")
