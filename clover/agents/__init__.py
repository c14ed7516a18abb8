"""The four agents. Each turns messages into events for a pure state machine and its commands into awaits."""
