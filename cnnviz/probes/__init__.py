"""Figures about units and features over many images: computations only, no files, no pictures."""
