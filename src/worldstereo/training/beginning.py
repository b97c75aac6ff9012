"""What a run's model was made of, kept in the run folder: the run goes on with that and nothing else."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from worldstereo.errors import InputError
from worldstereo.files import file_fingerprint, is_leftover, read_json, write_json

_RECORD = "beginning.json"
_PATTERNS = ("*.json", "*.safetensors", "*/*.json", "*/*.safetensors")


@dataclass(frozen=True)
class Beginning:
    """What a model was made of, as plain values.

    Attributes:
        stage: that the run trains.
        folders: by the configuration's field, the path of a folder and a fingerprint of each file of networks there. A
            folder with the same files is the same, wherever it lies.
        fields: such as "backbone.num_layers", of the parts that are made new.
    """

    stage: str
    folders: dict[str, dict[str, Any]]
    fields: dict[str, Any]

    @classmethod
    def of(
        cls, stage: str, folders: Mapping[str, Path | None], parts: Mapping[str, Mapping[str, Any]] | None = None
    ) -> "Beginning":
        """That of folders and of parts' fields, by the configuration's field."""
        given = {name: folder for name, folder in folders.items() if folder is not None}
        fields = {f"{part}.{name}": x for part, values in (parts or {}).items() for name, x in values.items()}
        return cls(
            stage,
            {name: {"path": str(folder.absolute()), "files": _fingerprints(folder)} for name, folder in given.items()},
            json.loads(json.dumps(fields)),  # as they are when they are read again
        )

    @classmethod
    def kept(cls, run_folder: Path) -> "Beginning | None":
        """That of a run which has begun; none of runs from before it was kept.

        Raises:
            InputError: the record is damaged.
        """
        path = run_folder / _RECORD
        if not path.exists():
            return None
        values = read_json(path)
        try:
            return cls(values["stage"], dict(values["folders"]), dict(values["fields"]))
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{path}: is damaged; choose another run folder") from error

    def keep(self, run_folder: Path) -> None:
        """Write it, atomically."""
        write_json(run_folder / _RECORD, asdict(self))

    def require_same(self, given: "Beginning", run_folder: Path) -> None:
        """Raises:
        InputError: the run in this folder began with something else than is given now.
        """
        values, others = {"stage": self.stage} | self.fields, {"stage": given.stage} | given.fields
        for name in values | others:
            if values.get(name) != others.get(name):
                raise InputError(
                    f"{name}: the run in {run_folder} began with {values.get(name)!r}, not with {others.get(name)!r}; "
                    f"choose another run folder"
                )
        nothing = {"path": "no folder", "files": {}}
        for name in self.folders | given.folders:
            before, now = (folders.get(name, nothing) for folders in (self.folders, given.folders))
            if before["files"] != now["files"]:
                raise InputError(
                    f"{name}: the files of {now['path']} are not those that the run in {run_folder} began with "
                    f"({before['path']}); choose another run folder"
                )


def _fingerprints(folder: Path) -> dict[str, str]:
    paths = sorted(path for pattern in _PATTERNS for path in folder.glob(pattern))
    names = {path: path.relative_to(folder) for path in paths}
    return {name.as_posix(): file_fingerprint(path) for path, name in names.items() if not is_leftover(name.parts[0])}
