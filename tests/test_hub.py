"""What `--model` may name, what is fetched, and every sentence about what is missing. No test uses the network."""

import fnmatch
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from worldstereo.errors import InputError
from worldstereo.models.hub import ModelFiles, ModelSource

huggingface_hub = pytest.importorskip("huggingface_hub")

COMMIT = "0123456789abcdef0123456789abcdef01234567"
CARD = "---\ntags:\n- video\nlicense: mit  # of the weights\n---\n# WorldStereo\nlicense: none\n"
REPOSITORY = {
    "README.md": CARD,
    "worldstereo-camera/config.json": '{"base_model": "base"}',
    "worldstereo-camera/model.safetensors": "",
    "worldstereo-memory/config.json": '{"base_model": "owner/base"}',
    "worldstereo-memory/model.safetensors": "",
    "base/transformer/config.json": "{}",
    "base/transformer/diffusion_pytorch_model-00001-of-00002.safetensors": "",
    "base/transformer/diffusion_pytorch_model-00002-of-00002.safetensors": "",
    "base/transformer/diffusion_pytorch_model.safetensors.index.json": json.dumps(
        {"weight_map": {f"w{i}": f"diffusion_pytorch_model-0000{1 + i % 2}-of-00002.safetensors" for i in range(4)}}
    ),
    "base/vae/config.json": "{}",
    "base/vae/diffusion_pytorch_model.safetensors": "",
    "base/vae/diffusion_pytorch_model.bin": "",
    "base/tokenizer/tokenizer_config.json": "{}",
    "base/tokenizer/spiece.model": "",
}


def write(folder: Path, names: list[str] | None = None) -> Path:
    for name in REPOSITORY if names is None else names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(REPOSITORY[name])
    return folder


@pytest.fixture
def models(tmp_path: Path) -> Path:
    return write(tmp_path / "models")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The empty cache of the hub on a machine that has been told to stay offline."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "cache"


def cached(cache: Path, names: list[str] | None = None) -> Path:
    """Put files of the repository owner/name into the cache as a download would."""
    repository = cache / "models--owner--name"
    (repository / "refs").mkdir(parents=True, exist_ok=True)
    (repository / "refs" / "main").write_text(COMMIT)
    return write(repository / "snapshots" / COMMIT, names)


class Hub:
    """Stands in for the downloads of owner/name, and keeps what was fetched."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.fetched: list[str] = []
        self.error: Exception | None = None

    def snapshot_download(self, repository: str, allow_patterns: list[str], local_files_only: bool) -> str:
        assert not local_files_only
        if self.error is not None:
            raise self.error
        assert repository == "owner/name"
        wanted = [name for name in REPOSITORY if any(fnmatch.fnmatch(name, pattern) for pattern in allow_patterns)]
        self.fetched += [name for name in wanted if name not in self.fetched]
        self.folder.mkdir(exist_ok=True)
        return str(write(self.folder, wanted))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    hub = Hub(tmp_path / "snapshot")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", hub.snapshot_download)
    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", lambda *_: list(REPOSITORY))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    return hub


def files(model: str, offline: bool = False) -> ModelFiles:
    return ModelFiles(ModelSource.parse(model), offline)


# Names


@pytest.mark.parametrize(
    ("text", "root", "subfolder"),
    [
        ("owner/name", "owner/name", ""),
        ("hanshanxue/WorldStereo:worldstereo-memory-dmd", "hanshanxue/WorldStereo", "worldstereo-memory-dmd"),
        ("Owner-1/na.me_2:a/b", "Owner-1/na.me_2", "a/b"),
    ],
)
def test_hub_ids_are_read(text, root, subfolder):
    source = ModelSource.parse(text)
    assert source == ModelSource(root, subfolder)
    assert str(source) == text


def test_folders_are_read(models, monkeypatch):
    assert ModelSource.parse(str(models)) == ModelSource(models)
    assert ModelSource.parse(f"{models}:worldstereo-camera") == ModelSource(models, "worldstereo-camera")
    assert ModelSource.parse(f"{models}:none").subfolder == "none"
    monkeypatch.chdir(models.parent)
    assert ModelSource.parse("models") == ModelSource(Path("models"))
    assert ModelSource.parse("models/base:vae") == ModelSource(Path("models/base"), "vae")
    monkeypatch.setenv("HOME", str(models.parent))
    assert ModelSource.parse("~/models:base") == ModelSource(models, "base")


@pytest.mark.skipif(os.name == "nt", reason="such a folder's name is a drive there")
def test_colons_of_folders_and_drives_are_no_subfolders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a:b", r"C:\models", "C"):
        Path(name).mkdir()
        assert ModelSource.parse(name) == ModelSource(Path(name))
    assert ModelSource.parse(r"C:\models:memory") == ModelSource(Path(r"C:\models"), "memory")
    for missing in (r"C:\none", "C:/none", r"C:\none:memory"):
        with pytest.raises(InputError, match="no shipped model, no folder and no hub id"):
            ModelSource.parse(missing)


@pytest.mark.parametrize("text", ["", "warp", "a/b/c", "./a/b", "../a", "/a/b", "owner/name:", "owner/name:a:b", ":a"])
def test_other_names_are_refused(text):
    with pytest.raises(InputError, match=r"^model .*: is no shipped model, no folder and no hub id; write"):
        ModelSource.parse(text)


# Local folders


def test_local_files_are_used_in_place(models):
    camera = files(f"{models}:worldstereo-camera")
    assert camera.file("config.json") == models / "worldstereo-camera" / "config.json"
    base = camera.base("base")
    assert base.component("transformer") == models / "base" / "transformer"
    assert base.component("vae", config_only=True) == models / "base" / "vae"
    assert base.component("tokenizer") == models / "base" / "tokenizer"


def test_base_models_beside_the_model_go_before_the_hub(models, monkeypatch):
    for model in (f"{models}:worldstereo-camera", f"{models}/worldstereo-camera"):
        assert files(model, offline=True).base("base") == ModelFiles(ModelSource(models / "base"), True)
    monkeypatch.chdir(models / "worldstereo-camera")
    assert files(".").base("base").source == ModelSource(models / "base")
    assert files(".").base(str(models)).source == ModelSource(models)
    assert files(".").base("owner/base").source == ModelSource("owner/base")
    assert files("owner/name:a").base("owner/base").source == ModelSource("owner/base")
    for model in (".", "owner/name"):
        with pytest.raises(
            InputError, match=r"names the base model 'none', which is neither a folder beside .* correct"
        ):
            files(model).base("none")


def test_unknown_local_subfolders_are_refused_with_those_there_are(models):
    with pytest.raises(
        InputError, match=r"has no subfolder 'camera'; choose one of: worldstereo-camera, worldstereo-memory$"
    ):
        files(f"{models}:camera").file("config.json")
    with pytest.raises(InputError, match=r"has no subfolder 'camera'; it has none that holds a model$"):
        files(f"{models / 'worldstereo-camera'}:camera").file("config.json")


def test_a_folder_of_several_models_asks_which(models):
    with pytest.raises(InputError, match=r"no config\.json of its own; choose one of: \S+models:worldstereo-camera, "):
        files(str(models)).file("config.json")


def test_missing_local_files_are_named(models):
    (models / "worldstereo-camera" / "model.safetensors").unlink()
    with pytest.raises(
        InputError, match=r"^model \S+:worldstereo-camera: has no model\.safetensors; copy the complete model into"
    ):
        files(f"{models}:worldstereo-camera").file("model.safetensors")
    base = files(str(models / "base"))
    with pytest.raises(InputError, match=r"has no text_encoder/config\.json; copy"):
        base.component("text_encoder")
    with pytest.raises(InputError, match=r"has no scheduler/scheduler_config\.json; copy"):
        base.component("scheduler")
    transformer = models / "base" / "transformer"
    (transformer / "diffusion_pytorch_model-00002-of-00002.safetensors").unlink()
    with pytest.raises(
        InputError, match=r"has no transformer/diffusion_pytorch_model-00002-of-00002\.safetensors; cop"
    ):
        base.component("transformer")
    assert base.component("transformer", config_only=True) == transformer
    (transformer / "diffusion_pytorch_model.safetensors.index.json").write_text("[]")
    with pytest.raises(InputError, match=r"index\.json: lists no weight files"):
        base.component("transformer")
    (models / "base" / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(InputError, match=r"has no vae/model\.safetensors; copy"):
        base.component("vae")


# The hub


def test_only_what_is_asked_for_is_fetched(hub):
    camera = files("owner/name:worldstereo-camera")
    assert camera.file("config.json") == hub.folder / "worldstereo-camera" / "config.json"
    assert hub.fetched == ["worldstereo-camera/config.json"]
    base = files("owner/name:base")
    assert base.component("transformer", config_only=True) == hub.folder / "base" / "transformer"
    assert hub.fetched[1:] == ["base/transformer/config.json"]
    base.component("vae")
    assert hub.fetched[2:] == ["base/vae/config.json", "base/vae/diffusion_pytorch_model.safetensors"]
    base.component("tokenizer")
    base.component("transformer")
    assert sum(name.startswith("base/transformer/") for name in hub.fetched) == 4
    assert not any(name.endswith(".bin") for name in hub.fetched)


def test_what_a_repository_lacks_is_named(hub):
    with pytest.raises(
        InputError, match=r"^model owner/name: has no config\.json of its own; choose one of: owner/name:w"
    ):
        files("owner/name").file("config.json")
    with pytest.raises(
        InputError,
        match=r"owner/name has no subfolder 'memory'; choose one of: worldstereo-camera, worldstereo-memory$",
    ):
        files("owner/name:memory").file("config.json")
    with pytest.raises(InputError, match=r"has no text_encoder/config\.json; check the name of the model"):
        files("owner/name:base").component("text_encoder")


def test_an_error_sentence_does_not_need_the_list_of_files(hub, monkeypatch):
    def unreachable(*_: object) -> list[str]:
        raise ConnectionError

    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", unreachable)
    with pytest.raises(InputError, match=r"has no config\.json; check the name of the model"):
        files("owner/name").file("config.json")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        ("GatedRepoError", "asks for consent before the download; accept the terms .* 'hf auth login'"),
        ("RepositoryNotFoundError", "no folder and no public model of the hub called owner/name; correct the name"),
        (
            "LocalEntryNotFoundError",
            r"config\.json is not on this machine and the hub cannot be reached; check the net",
        ),
    ],
)
def test_errors_of_the_hub_are_explained(hub, error, said):
    kind = getattr(huggingface_hub.errors, error)
    hub.error = kind.__new__(kind)
    with pytest.raises(InputError, match=rf"^model owner/name:base: .*{said}"):
        files("owner/name:base").file("config.json")


def test_other_errors_keep_their_first_line(hub):
    hub.error = OSError(28, "No space left on device")
    with pytest.raises(
        InputError, match=r"cannot be downloaded \(\[Errno 28\] No space left on device\); run .* again"
    ):
        files("owner/name").file("config.json")
    hub.error = TimeoutError()
    with pytest.raises(InputError, match=r"cannot be downloaded \(TimeoutError\)"):
        files("owner/name").file("config.json")


def test_the_cache_is_enough_offline(cache):
    snapshot = cached(cache)
    base = files("owner/name:base", offline=True)
    assert base.component("transformer") == snapshot / "base" / "transformer"
    assert base.licence() == "mit"


@pytest.mark.parametrize("by_variable", [True, False])
def test_what_is_not_cached_is_named_offline(cache, monkeypatch, by_variable):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", by_variable)
    base = files("owner/name:base", offline=not by_variable)
    said = "is not on this machine and downloads are switched off; run the command once while connected"
    with pytest.raises(InputError, match=rf"^model owner/name:base: vae/config\.json {said}"):
        base.component("vae")
    snapshot = cached(cache, ["base/vae/config.json", "base/transformer/config.json"])
    with pytest.raises(InputError, match=rf"vae/model\.safetensors {said}"):
        base.component("vae")
    assert base.component("transformer", config_only=True) == snapshot / "base" / "transformer"
    assert base.licence() is None


def test_a_dead_network_is_told_at_once(tmp_path):
    code = "from worldstereo.models.hub import *; ModelFiles(ModelSource.parse('owner/name')).file('config.json')"
    environment = {
        **{name: value for name, value in os.environ.items() if "proxy" not in name.lower()},
        "HF_HUB_OFFLINE": "0",
        "HF_HOME": str(tmp_path),
        "HF_ENDPOINT": "http://127.0.0.1:9",  # nobody listens there
    }
    start = time.monotonic()
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert "config.json is not on this machine and the hub cannot be reached" in result.stderr
    assert time.monotonic() - start < 15  # the library's own retries alone take 23 s


def test_the_hub_library_is_not_imported_for_a_local_model(models):
    code = (
        "import sys; from worldstereo.models.hub import *; "
        f"files = ModelFiles(ModelSource.parse({str(models / 'base')!r})); files.component('vae'); files.licence(); "
        "assert 'huggingface_hub' not in sys.modules and 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# Licences


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        (CARD, "mit"),
        ("---\nlicense: other\nlicense_name: 'acme-community'\n---\n", "acme-community"),
        ('---\r\nlicense: "apache-2.0"\r\n---\r\n', "apache-2.0"),
        ("---\ntags: []\n---\nlicense: mit\n", None),
        ("license: mit\n", None),
        ("", None),
    ],
)
def test_licences_are_read_from_the_card(tmp_path, card, licence):
    (tmp_path / "README.md").write_bytes(card.encode())
    assert files(str(tmp_path)).licence() == licence


def test_a_subfolder_s_card_goes_before_the_repository_s(models, hub):
    assert files(f"{models}:worldstereo-camera").licence() == "mit"
    (models / "worldstereo-camera" / "README.md").write_text("---\nlicense: cc0-1.0\n---\n")
    assert files(f"{models}:worldstereo-camera").licence() == "cc0-1.0"
    assert files("owner/name:worldstereo-camera").licence() == "mit"
    assert hub.fetched == ["README.md"]


def test_licences_never_fail(models, hub):
    (models / "README.md").write_bytes(b"---\nlicense: \xff\n---")
    assert files(str(models)).licence() is None
    shutil.rmtree(models)
    assert ModelFiles(ModelSource(models)).licence() is None
    hub.error = ValueError("anything")
    assert files("owner/name").licence() is None
