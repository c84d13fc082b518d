"""Names that the field has for methods and studies which are called otherwise here, or are options of another one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class OtherName:
    """What a name of the field is called here.

    Attributes:
        entry: The name in the register.
        options: Those of the entry that make it what the name means, by their names there.
    """

    entry: str
    options: Mapping[str, str] = field(default_factory=dict)


def folded(name: str) -> str:
    """A name as it is compared: in small letters, without what separates its words.

    >>> folded("Guided-Backprop"), folded("t-SNE")
    ('guidedbackprop', 'tsne')
    """
    return "".join(letter for letter in name.casefold() if letter not in "-_ ")


def _same(entry: str, *names: str, **options: str) -> dict[str, OtherName]:
    return {folded(name): OtherName(entry, options) for name in names}


# In any spelling that `folded` takes for the same. What another method computes alone is named, no near relative.
OTHER_NAMES: Mapping[str, OtherName] = {
    **_same("gradcam++", "gradcam-pp", "gradcam-plus-plus"),
    **_same("smoothgradcam++", "smoothgradcam-pp", "smooth-gradcam-plus-plus"),
    **_same("saliency", "saliency-map", "saliency-maps", "gradient", "gradients", "vanilla-gradient"),
    **_same("saliency", "vanilla-gradients", "vanilla-backprop", "vanilla"),
    **_same("gradient_x_input", "input-x-gradient", "grad-x-input", "grad-times-input", "gradient-times-input"),
    **_same("smoothgrad", "smoothgrad-squared", statistic="square"),
    **_same("smoothgrad", "vargrad", statistic="variance"),
    **_same("integrated_gradients", "ig", "integrated-gradient", "intgrad"),
    **_same("gradient_shap", "expected-gradients"),
    **_same("guided", "backprop", "backpropagation", rule="backprop"),
    **_same("guided", "deconvnet", "deconv", "deconvolution", rule="deconvnet"),
    **_same("guided", "guided-backprop", "guided-backpropagation", "gbp"),
    **_same("guided", "guided-gradcam", with_gradcam="true"),
    **_same("excitation_backprop", "excitation-backpropagation", "ebp"),
    **_same("excitation_backprop", "contrastive-excitation-backprop", "c-ebp", contrastive="true"),
    **_same("lrp", "layerwise-relevance-propagation", "relevance-propagation"),
    **_same("lrp", "attnlrp", rule="attnlrp"),
    **_same("deeplift", "deep-shap", "deeplift-shap", background="photos/"),
    **_same("rollout", "attention-rollout"),
    **_same("chefer", "generic-attention-explainability"),
    **_same("occlusion", "occlusion-sensitivity", "sliding-window"),
    **_same("extremal", "extremal-perturbation", "extremal-perturbations"),
    **_same("sobol", "sobol-attribution"),
    **_same("hsic", "hsic-attribution"),
    **_same("shapley", "shap", "shapley-values", "shapley-value-sampling"),
    **_same("concepts", "craft"),
    **_same("factors", "deep-feature-factorization", "dff", "nmf"),
    **_same("tcav", "cav", "concept-activation-vectors"),
    **_same("synthesize", "feature-visualization", "feature-visualisation"),
    **_same("synthesize", "activation-maximization", "activation-maximisation"),
    **_same("dream", "deepdream", "inceptionism"),
    **_same("invert", "feature-inversion"),
    **_same("top-patches", "network-dissection", "netdissect", masks="masks/"),
    **_same("embed", "tsne", "pca"),
    **_same("embed", "umap", umap="true"),
    **_same("adversarial", "pgd"),
    **_same("adversarial", "fgsm", attack="fgsm"),
    **_same("adversarial", "ifgsm", "bim", attack="ifgsm"),
    **_same("adversarial", "deepfool", attack="deepfool"),
    **_same("adversarial", "cw", "carlini-wagner", attack="cw"),
}
