-- Returns agents and milliseconds since their last heartbeat, alternating.
-- KEYS: live.

local now = now_ms()
local found = redis.call('ZRANGEBYSCORE', KEYS[1], now - LIVE_WINDOW_MS, '+inf', 'WITHSCORES')
for i = 2, #found, 2 do
  found[i] = math.max(0, now - found[i])
end
return found
