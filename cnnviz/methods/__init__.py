"""Maps of an image: each method is one function ``(run, target, params) -> Heatmap``."""
