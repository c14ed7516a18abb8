"""Planning: from an application, a fleet, a load and an intensity to a configuration. Pure."""
