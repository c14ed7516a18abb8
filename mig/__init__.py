"""GPUs that can be partitioned with MIG: profiles, placements, partitions, devices. Knows nothing of Clover."""
