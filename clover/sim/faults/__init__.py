"""The fault kit: things that go wrong on purpose, a history of what happened, and one judge who reads it.

`proxy` and `toxics` spoil connections, `server` the server, `misbehaviour` one agent from inside; `process` is an agent
as a process that can be told to misbehave, `rig` a deployment of them, `schedule` what goes wrong when. Every part
writes to a `history`; `checker` decides from that alone whether each promise of docs/operations/promises.md was kept.
`soak` puts it together.
"""
