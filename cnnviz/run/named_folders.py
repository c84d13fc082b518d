"""Folders as labels: ``--class folder`` where no folder is called like a class is an error before the first image."""

from __future__ import annotations

from collections.abc import Iterator

from cnnviz.io.sources import find_images
from cnnviz.settings import RunSettings
from cnnviz.tasks.base import Selector

FOLDERS_AS_LABELS = "no labels are given: the names of the folders stand for them (--class FILE.csv gives others)"
"""What studies tell that take the folders by themselves."""


def check_folders(settings: RunSettings, selector: Selector) -> None:
    """Look for an input in a folder that names a class, where the folders are asked for at all.

    Where only some of them do not, it is the record of an image that says so. Standard input can be read only once and
    is not looked at.

    Raises:
        CnnvizError: There are inputs, and none of their folders names a class of the network.
    """
    if settings.inputs and "-" not in settings.inputs:
        selector.check_folders(_folders(settings))


def _folders(settings: RunSettings) -> Iterator[str | None]:
    """Looks for the inputs only once a folder is asked for: images dropped on a live page have no file."""
    for ref in find_images(settings.inputs):
        yield ref.folder
