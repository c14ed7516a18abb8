"""Model families that a worker process can load; each imports torch, so only workers may import one."""
