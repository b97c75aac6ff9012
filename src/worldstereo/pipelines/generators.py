"""Generators by their names; the networks of the last model stay loaded."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from worldstereo.errors import InputError
from worldstereo.models.hub import ModelFiles, ModelSource
from worldstereo.pipelines.generator import VideoGenerator
from worldstereo.pipelines.generator_options import GeneratorOptions, Placement, Precision
from worldstereo.pipelines.warp import WarpGenerator

if TYPE_CHECKING:
    from worldstereo.pipelines.loading import LoadedModel


class Generators:
    """Makes generators on one device. Those of one model and precision share its networks, which are loaded once: they
    may differ in prompt, sampling and whatever else `GeneratorOptions` names."""

    def __init__(self, placement: Placement, expected: Sequence[tuple[str, GeneratorOptions]] = ()) -> None:
        """
        Args:
            expected: models and options that will be asked for, in that order, so that their prompts can be encoded
                many at a time; others are allowed.
        """
        self._placement = placement
        self._expected = expected
        self._loaded: tuple[tuple[str, Precision], LoadedModel] | None = None

    def __call__(self, model: str, options: GeneratorOptions) -> VideoGenerator:
        """The generator of that name: "warp", "nano", or a folder or hub id of a network, with optional `:subfolder`.

        Raises:
            InputError: unknown, or an option does not go with it.
        """
        if model == WarpGenerator.name:
            if options != GeneratorOptions():
                raise InputError("--model warp: has no network, so it takes no prompt, steps, precision or the like")
            return WarpGenerator()
        key = self._key(model, options)
        if self._loaded is None or self._loaded[0] != key:
            self._loaded = None  # its memory is free before the next one takes its own
            self._loaded = key, self._load(model, key[1])
        return self._loaded[1].generator(options)

    def _load(self, model: str, precision: Precision) -> "LoadedModel":
        files = ModelFiles(ModelSource.parse(model), self._placement.offline)
        files.file("config.json")  # before the libraries are imported, which takes seconds
        from worldstereo.pipelines.loading import LoadedModel

        expected = [options for name, options in self._expected if self._key(name, options) == (model, precision)]
        return LoadedModel(model, files, precision, self._placement, expected)

    def _key(self, model: str, options: GeneratorOptions) -> tuple[str, Precision]:
        return model, options.on(self._placement.device).precision
