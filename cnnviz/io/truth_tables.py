"""Tables that say which classes the labels of annotations mean."""

from __future__ import annotations

from typing import Any

from cnnviz.errors import CnnvizError
from cnnviz.io.structured import load_yaml

_EXAMPLE = "One label a line, such as  dog: [beagle, 207]"


def read_truth_classes(path: str) -> dict[str, Any]:
    """The mapping of labels to classes, names or indices or lists of them, in a YAML or JSON file.

    Raises:
        CnnvizError: The file cannot be read, or holds something else.
    """
    try:
        with open(path, encoding="utf-8") as stream:
            found = load_yaml(stream.read())
    except OSError as error:
        reason = error.strerror or error
        raise CnnvizError(f"--truth-classes {path}: the file cannot be read ({reason}).", _EXAMPLE) from error
    except ValueError as error:
        raise CnnvizError(f"--truth-classes {path}: not valid YAML: {error}.", _EXAMPLE) from error
    if not isinstance(found, dict) or not all(isinstance(label, str) for label in found):
        raise CnnvizError(f"--truth-classes {path}: expected labels with their classes.", _EXAMPLE)
    return found
