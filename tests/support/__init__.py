"""What the tests share: networks, pictures, runs, comparisons."""
