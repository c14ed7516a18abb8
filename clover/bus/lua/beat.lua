-- Notes that an agent is alive.
-- KEYS: live. ARGV: agent.

local now = now_ms()
redis.call('ZADD', KEYS[1], now, ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - LIVE_WINDOW_MS)
return 1
