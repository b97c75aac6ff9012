"""What `--model` names, a shipped model, a folder or a repository of the hub, and its files, fetched one by one when
they are needed.

The published layout is one repository with a subfolder for each model (`config.json` and `model.safetensors`), and a
base model in the layout of diffusers (`transformer/`, `vae/`, `text_encoder/`, ...) that `config.json` names. The base
model is several times as large as what a run needs of it, so nothing is fetched that nobody asked for.
"""

import contextlib
import hashlib
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path

from worldstereo.errors import InputError
from worldstereo.files import file_fingerprint, read_json

DEFAULT_MODEL = "nano"
"""What `--model` is where nobody says it."""

SHIPPED_MODELS = {"nano": Path(__file__).parents[1] / "weights" / "nano"}
"""Folders of the networks that belong to the package; their weights may be missing."""

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_ROOT_AND_SUBFOLDER = re.compile(r"(.+?)(?::([^:/\\][^:\\]*))?")  # the colon of a drive has a slash behind it

_CONFIG_OF_PARTS_WITHOUT_WEIGHTS = {
    "tokenizer": "tokenizer_config.json",
    "image_processor": "preprocessor_config.json",
    "scheduler": "scheduler_config.json",
}
_FORMATS = ("*.json", "*.safetensors", "*.model", "*.txt")  # pickled weights are never fetched


def is_shipped(name: str) -> bool:
    """Whether the weights of one of the `SHIPPED_MODELS` are there."""
    return (SHIPPED_MODELS[name] / "config.json").is_file()


@dataclass(frozen=True)
class ModelSource:
    """Where a model lies.

    Attributes:
        root: a folder, or the id "owner/name" of a repository of the hub.
        subfolder: of the root, with forward slashes; empty for the root itself.
    """

    root: Path | str
    subfolder: str = ""

    @staticmethod
    def parse(text: str) -> "ModelSource":
        """Read the name of a shipped model, a folder or `owner/name`, each perhaps with `:SUBFOLDER` behind it.

        A shipped name goes before a folder that is called the same (write `./nano` for that), a folder that exists
        before a hub id that reads the same, and the whole text before a part of it.

        Raises:
            InputError: it is none of these, or the weights of the shipped model are missing.
        """
        parts = _ROOT_AND_SUBFOLDER.fullmatch(text)
        if parts is not None and parts[1] in SHIPPED_MODELS:
            if not is_shipped(parts[1]):
                raise InputError(
                    f"model {text}: its weights are not part of this installation; use --model warp, a folder or a hub "
                    f"id, or train it with 'worldstereo train {parts[1]}'"
                )
            return ModelSource(SHIPPED_MODELS[parts[1]], parts[2] or "")
        if parts is not None:
            if Path(text).expanduser().is_dir():
                return ModelSource(Path(text).expanduser())
            root, subfolder = parts[1], parts[2] or ""
            if Path(root).expanduser().is_dir():
                return ModelSource(Path(root).expanduser(), subfolder)
            if _HUB_ID.fullmatch(root):
                return ModelSource(root, subfolder)
        raise InputError(
            f"model {text}: is no shipped model, no folder and no hub id; write an existing folder or owner/name, "
            f"and :SUBFOLDER behind it where it holds several models"
        )

    def above(self) -> "ModelSource":
        """The folder that this one lies in; of the root of a repository, itself."""
        if self.subfolder or not isinstance(self.root, Path):
            return replace(self, subfolder=self.subfolder.rpartition("/")[0])
        return ModelSource(Path(os.path.abspath(self.root)).parent)

    def __str__(self) -> str:
        return f"{self.root}:{self.subfolder}" if self.subfolder else str(self.root)


def weights_fingerprint(model: str) -> str | None:
    """Of a shipped model's weights or of those in a folder, by `file_fingerprint` of each file; none for others."""
    try:
        source = ModelSource.parse(model)
    except InputError:
        return None
    if not isinstance(source.root, Path):
        return None
    digest = hashlib.sha256()
    folder = source.root / source.subfolder
    for path in sorted(folder.rglob("*.safetensors")):
        digest.update(f"{path.relative_to(folder).as_posix()} {file_fingerprint(path)}".encode())
    return digest.hexdigest()[:16]


@dataclass(frozen=True)
class ModelFiles:
    """The files of a model. Those of the hub are downloaded on demand into its cache, and used from there without net.

    Attributes:
        source: where the model lies.
        offline: use what is on this machine and never ask the hub; the variable HF_HUB_OFFLINE says the same.
    """

    source: ModelSource
    offline: bool = False

    def file(self, name: str) -> Path:
        """The local path of one file, e.g. "config.json" or "transformer/config.json".

        Raises:
            InputError: it is not there or cannot be downloaded.
        """
        path = self._fetch(name, [name]) / name
        if not path.is_file():
            raise self._missing(name)
        return path

    def component(self, name: str, config_only: bool = False) -> Path:
        """The local folder of one part in the layout of diffusers or transformers, e.g. "vae" or "tokenizer".

        Args:
            name: of the part: the name of its folder.
            config_only: its configuration is enough; no weights are downloaded.

        Raises:
            InputError: it is not there, is incomplete or cannot be downloaded.
        """
        config = self.file(f"{name}/{_CONFIG_OF_PARTS_WITHOUT_WEIGHTS.get(name, 'config.json')}")
        if config_only:
            return config.parent
        folder = self._fetch(name, [f"{name}/{pattern}" for pattern in _FORMATS]) / name
        if name not in _CONFIG_OF_PARTS_WITHOUT_WEIGHTS:
            for weights in _weight_files(folder):
                if not (folder / weights).is_file():
                    raise self._missing(f"{name}/{weights}")
        return folder

    def whole(self) -> Path:
        """The local folder of a model that is one part by itself, e.g. a CLIP with its tokenizer.

        Raises:
            InputError: it is not there, is incomplete or cannot be downloaded.
        """
        self.file("config.json")
        folder = self._fetch("the model", list(_FORMATS))
        for weights in _weight_files(folder):
            if not (folder / weights).is_file():
                raise self._missing(weights)
        return folder

    def has(self, name: str) -> bool:
        """Whether there is a part of that name; a hub that cannot be reached has none."""
        try:
            return self.file(f"{name}/config.json").is_file()
        except InputError:
            return False

    def base(self, base_model: str) -> "ModelFiles":
        """The files of the base model that `config.json` names.

        Args:
            base_model: a folder, absolute or relative to the place beside the model's own folder, or else a hub id.

        Raises:
            InputError: it is neither.
        """
        if isinstance(self.source.root, Path):
            beside = Path(os.path.abspath(self.source.root / self.source.subfolder)).parent / base_model
            if beside.is_dir():
                return replace(self, source=ModelSource(beside))
        if not _HUB_ID.fullmatch(base_model):
            raise InputError(
                f"model {self.source}: its config.json names the base model '{base_model}', which is neither a folder "
                f"beside the model nor a hub id; put that folder there or correct 'base_model'"
            )
        return replace(self, source=ModelSource(base_model))

    def licence(self) -> str | None:
        """The licence of the weights as the model card (README.md) states it; None where no card says it.

        It never fails: a card that cannot be had states nothing.
        """
        for source in dict.fromkeys((self.source, replace(self.source, subfolder=""))):
            with contextlib.suppress(InputError, OSError, UnicodeError):
                card = replace(self, source=source)._fetch("README.md", ["README.md"]) / "README.md"
                licence = _stated_licence(card.read_text(encoding="utf-8"))
                if licence:
                    return licence
        return None

    def _fetch(self, what: str, patterns: list[str]) -> Path:
        """The model's local folder, with the files of these patterns in it as far as they exist; errors name `what`.

        `snapshot_download` serves for single files too: where the hub cannot be reached `hf_hub_download` tries again
        for 23 s before it says so.
        """
        root, subfolder = self.source.root, self.source.subfolder
        if isinstance(root, Path):
            return root / subfolder
        from huggingface_hub import errors, snapshot_download

        prefix = f"{subfolder}/" if subfolder else ""
        wanted = [prefix + pattern for pattern in patterns]
        try:
            snapshot = snapshot_download(root, allow_patterns=wanted, local_files_only=self._stays_offline())
        except errors.GatedRepoError as error:
            raise InputError(
                f"model {self.source}: its owner asks for consent before the download; accept the terms on the model's "
                f"page of the hub, log in with 'hf auth login', and run the command again"
            ) from error
        except errors.RepositoryNotFoundError as error:
            raise InputError(
                f"model {self.source}: there is no folder and no public model of the hub called {root}; correct the "
                f"name, or log in with 'hf auth login' if the model is private"
            ) from error
        except errors.LocalEntryNotFoundError as error:
            if self._stays_offline():
                raise self._missing(what) from error
            raise InputError(
                f"model {self.source}: {what} is not on this machine and the hub cannot be reached; check the "
                f"network connection and run the command again"
            ) from error
        except Exception as error:  # errors of the network, the disk and the hub share no base class
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise InputError(
                f"model {self.source}: {what} cannot be downloaded ({reason}); run the command again, the "
                f"download goes on where it stopped"
            ) from error
        return Path(snapshot) / subfolder

    def _missing(self, name: str) -> InputError:
        """The error that names a missing file and what to do about it."""
        root, subfolder = self.source.root, self.source.subfolder
        if not isinstance(root, Path) and self._stays_offline():
            return InputError(
                f"model {self.source}: {name} is not on this machine and downloads are switched off; run the command "
                f"once while connected, without the offline option and without HF_HUB_OFFLINE"
            )
        files = self._listed()
        others = sorted(file.split("/")[0] for file in files if re.fullmatch("[^/]+/config.json", file))
        if isinstance(root, Path):
            exists, mend = (root / subfolder).is_dir(), "copy the complete model into the folder"
        else:
            exists, mend = not files or any(f.startswith(f"{subfolder}/") for f in files), "check the name of the model"
        if subfolder and not exists:
            there = f"choose one of: {', '.join(others)}" if others else "it has none that holds a model"
            return InputError(f"model {self.source}: {root} has no subfolder '{subfolder}'; {there}")
        if not subfolder and "/" not in name and others:
            choices = ", ".join(f"{root}:{other}" for other in others)
            return InputError(f"model {self.source}: has no {name} of its own; choose one of: {choices}")
        return InputError(f"model {self.source}: has no {name}; {mend}")

    def _listed(self) -> list[str]:
        """The configurations of a local root's subfolders, or all files of a repository; none if the hub is silent."""
        if isinstance(self.source.root, Path):
            root = self.source.root
            return [path.relative_to(root).as_posix() for path in root.glob("*/config.json")]
        from huggingface_hub import HfApi

        with contextlib.suppress(Exception):  # it is for an error message, which is useful without it
            return HfApi().list_repo_files(self.source.root)
        return []

    def _stays_offline(self) -> bool:
        from huggingface_hub import constants

        return self.offline or bool(constants.HF_HUB_OFFLINE)


def _weight_files(folder: Path) -> list[str]:
    """The names of the weight files that a network's folder must have.

    Raises:
        InputError: the list of the shards is damaged.
    """
    for index in sorted(folder.glob("*.safetensors.index.json")):
        listed = read_json(index)
        if not isinstance(listed, dict) or not isinstance(listed.get("weight_map"), dict):
            raise InputError(f"{index}: lists no weight files ('weight_map'); delete it and fetch the model again")
        return sorted(set(listed["weight_map"].values()))
    return sorted(path.name for path in folder.glob("*.safetensors")) or ["model.safetensors"]


def _stated_licence(card: str) -> str | None:
    """`license_name`, or else `license`, of a model card's front matter."""
    front_matter = re.match(r"---\s*\n(.*?)\n---", card, re.DOTALL)
    if front_matter is None:
        return None
    stated = dict(re.findall(r"^(license|license_name):[ \t]*['\"]?([^\s'\"#]+)", front_matter[1], re.MULTILINE))
    return stated.get("license_name") or stated.get("license")
