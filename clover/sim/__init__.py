"""The same agents in virtual time on the in-process bus, with simulated GPUs."""
