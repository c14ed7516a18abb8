-- Appends telemetry to its feed and keeps it as the node's last state.
-- KEYS: feed, state of the node, nodes. ARGV: bound, node, time to live in ms (0: there is no state any more), header.

local now = now_ms()
redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[1], '*', 'v', VERSION, 't', 'telemetry', 'd', ARGV[4])
redis.call('HSET', KEYS[2], 'v', VERSION, 't', 'telemetry', 'd', ARGV[4])
-- A key whose time to live is 0 is gone at once, and so is a member that has expired.
redis.call('PEXPIRE', KEYS[2], ARGV[3])
redis.call('ZADD', KEYS[3], now + ARGV[3], ARGV[2])
redis.call('ZREMRANGEBYSCORE', KEYS[3], '-inf', now)
return 1
