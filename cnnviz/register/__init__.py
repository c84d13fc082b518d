"""The entries of THE register, a file a family; ``cnnviz.catalog`` joins them."""
