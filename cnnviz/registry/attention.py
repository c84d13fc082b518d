"""Maps from the attention matrices of transformers."""

from cnnviz.registry.specs import MethodSpec

_FAMILY = "attention"
_MATRICES = "cnnviz.methods.attention.matrices:matrix_nodes"

ATTENTION: tuple[MethodSpec, ...] = (
    MethodSpec(
        name="chefer",
        command="attention",
        family=_FAMILY,
        entry="cnnviz.methods.attention.matrices:chefer",
        title="Chefer",
        summary="Attention times its gradient, followed from the class token through all layers to the patches.",
        paper="Chefer et al., Generic Attention-model Explainability, ICCV 2021",
        needs=("trace", "attention"),
        nodes=_MATRICES,
        backward="1",
    ),
    MethodSpec(
        name="gradient_rollout",
        command="attention",
        family=_FAMILY,
        entry="cnnviz.methods.attention.matrices:gradient_rollout",
        title="Gradient rollout",
        summary="Attention rollout with the attention that raises the score alone.",
        paper="Gildenblat, Exploring Explainability for Vision Transformers, 2020",
        needs=("trace", "attention"),
        nodes=_MATRICES,
        backward="1",
    ),
    MethodSpec(
        name="legrad",
        command="attention",
        family=_FAMILY,
        entry="cnnviz.methods.attention.matrices:legrad",
        title="LeGrad",
        summary="How much more attention in each layer would raise the score of that layer's tokens.",
        paper="Bousselham et al., LeGrad: An Explainability Method for Vision Transformers, ICCV 2025",
        needs=("trace", "attention"),
        nodes="cnnviz.methods.attention.matrices:matrix_and_token_nodes",
        backward="layers (one block each)",
    ),
    MethodSpec(
        name="rollout",
        command="attention",
        family=_FAMILY,
        entry="cnnviz.methods.attention.matrices:rollout",
        title="Rollout",
        summary="Which patches the class token is made of, by attention alone; the same for every class.",
        paper="Abnar & Zuidema, Quantifying Attention Flow in Transformers, ACL 2020",
        needs=("trace", "attention"),
        nodes=_MATRICES,
        class_specific=False,
        caveat=(
            "attention rollout looks at no class: its map shows where the network looked, not what speaks for a class"
        ),
    ),
)
