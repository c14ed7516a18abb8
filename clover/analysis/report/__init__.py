"""Reports of runs: figures, pictures, and the pages that show them."""
