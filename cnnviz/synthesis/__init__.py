"""Images that a network makes: computations only, no files."""
