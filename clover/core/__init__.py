"""Pure decisions and definitions: no event loop, no server, no clock, no I/O."""
