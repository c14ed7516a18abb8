"""Running a variant on a GPU instance: simulated from tables, or real models in worker processes."""
