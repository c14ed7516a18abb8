"""Energy: meters and the account that splits joules into their causes."""
