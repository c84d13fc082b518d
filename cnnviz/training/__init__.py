"""Networks that are cut, given another head, and trained."""
