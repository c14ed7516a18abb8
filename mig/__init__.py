"""GPUs that can be partitioned with MIG: profiles, placements, partitions and devices. A leaf."""
