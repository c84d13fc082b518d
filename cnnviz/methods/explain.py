"""The one place where a method is called."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cnnviz.engine import runtime as rt
from cnnviz.engine.session import ForwardPass
from cnnviz.engine.targets import Target
from cnnviz.errors import CnnvizError
from cnnviz.methods.augmented import averaged
from cnnviz.methods.heatmap import Heatmap
from cnnviz.registry.specs import MethodSpec


def explain_batch(
    spec: MethodSpec, run: ForwardPass, target: Target, params: Any, augment: Sequence[str] = ()
) -> Heatmap:
    """What a method says of a batch.

    Args:
        spec: The method.
        run: A pass over the batch, of a session that is cut where the method needs it.
        target: What is explained; several targets of a batch share the pass.
        params: The method's parameters, as ``spec.resolve_params`` gives them.
        augment: Of :data:`cnnviz.settings.AUGMENTATIONS`: copies of the images over which maps are averaged.

    Raises:
        CnnvizError: What the method refuses; a method of another package that returns something else than a
            :class:`Heatmap` with one map for each image.
    """
    if target.readout != run.session.readout:
        raise TypeError(f"the session reads {run.session.readout}, the target {target.readout}")
    if augment:
        return averaged(lambda run, target: explain_batch(spec, run, target, params), run, target, params, augment)
    with rt.scope():
        # Methods that take no gradient compare scores of changed images.
        heatmap = spec.load()(run, target if spec.backward != "0" else target.watched, params)
    return _checked(spec, heatmap, "Return one map for each image, in order: [N, h, w].", (len(run.pixels),))


def explain_many(spec: MethodSpec, run: ForwardPass, targets: Sequence[Target], params: Any) -> Heatmap | None:
    """What a method says of a batch for many targets, values [K, N, h, w]; None where it takes them one by one.

    Args:
        spec, run, params: As :func:`explain_batch` has them.
        targets: What is explained, each of all images.
    """
    if not spec.many or any(target.readout != run.session.readout for target in targets):
        return None
    with rt.scope():
        heatmap = spec.load_many()(run, targets, params)
    if heatmap is None:
        return None
    shape = len(targets), len(run.pixels)
    return _checked(spec, heatmap, "Return a map for each target and image: [K, N, h, w].", shape)


def _checked(spec: MethodSpec, heatmap: Any, hint: str, shape: tuple[int, ...]) -> Heatmap:
    if not isinstance(heatmap, Heatmap):
        raise CnnvizError(
            f"Method {spec.name} returned {type(heatmap).__name__}; expected a Heatmap.",
            "Return cnnviz.extend.Heatmap(values) with values [N, h, w].",
        )
    if tuple(heatmap.values.shape[: len(shape)]) != shape:
        of = " x ".join(map(str, shape))
        raise CnnvizError(
            f"Method {spec.name} returned values of shape {list(heatmap.values.shape)} for {of} images.", hint
        )
    return heatmap
