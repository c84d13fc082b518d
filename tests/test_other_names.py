"""Names that the field has for what is called otherwise here."""

from __future__ import annotations

import pytest

from cnnviz.cli.app import main
from cnnviz.errors import CnnvizError
from cnnviz.registry import lookup
from cnnviz.registry.other_names import OTHER_NAMES


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("deconvnet", "Here that is cnnviz guided --rule deconvnet"),
        ("Guided_BackProp", "Here that is cnnviz guided"),
        ("guided-gradcam", "Here that is cnnviz guided --with-gradcam"),
        ("score-cam", "It is a variant: cnnviz gradcam --variant scorecam"),
        ("Grad-CAM", "Type cnnviz gradcam"),
        ("GradCAM-plus-plus", "Here that is cnnviz gradcam --variant gradcam++"),
        ("t-SNE", "Here that is cnnviz embed"),
        ("Insertion", "It is a metric: cnnviz evaluate photos/ --metric insertion"),
        ("top1_error", "It is a metric: cnnviz evaluate photos/ --metric box_localization"),
    ],
)
def test_what_to_type_is_told(capsys: pytest.CaptureFixture[str], name: str, hint: str) -> None:
    assert main([name, "a.jpg"]) == 2
    assert capsys.readouterr().err.splitlines() == [f"cnnviz: No such command: {name}", hint]


def test_a_variant_is_told_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gradcam", "a.jpg", "--variant", "ig"]) == 2
    assert "Here that is cnnviz saliency --variant integrated_gradients" in capsys.readouterr().err


@pytest.mark.parametrize("name", OTHER_NAMES)
def test_another_name_is_of_an_entry_and_of_no_command(name: str) -> None:
    other = OTHER_NAMES[name]
    spec = lookup.find_entry(other.entry)
    assert name not in {each.replace("_", "").replace("-", "") for each in lookup.commands()}
    options = {each.name: each for each in spec.params}
    for option, value in other.options.items():
        assert not options[option].choices or value in options[option].choices
        assert (options[option].type == "bool") == (value == "true")
        assert str(options[option].default) != value  # nothing to type for


def test_a_method_of_another_name_is_told_in_python_too() -> None:
    with pytest.raises(CnnvizError, match="Unknown method 'deconvnet'") as caught:
        lookup.methods_in(["deconvnet"])
    assert caught.value.hint == "Here that is guided with rule=deconvnet."
