-- Appends requests to the request streams, each id once, while fewer than the bound are waiting.
-- KEYS: normal stream, high stream, open requests, then one idempotency key per request.
-- ARGV: bound, then per request the values of id due dl rt prio acc tp d p.
-- Returns per request: 1 admitted, 0 duplicate, -1 full.

local function waiting(stream)
  local pending = redis.pcall('XPENDING', stream, GROUP)
  if pending.err then
    redis.call('XGROUP', 'CREATE', stream, GROUP, '0', 'MKSTREAM')
    return redis.call('XLEN', stream)
  end
  return redis.call('XLEN', stream) - pending[1]
end

local now = now_ms()
-- Not more wait than there are entries: only near the bound does it matter how many of them are in work.
local free = tonumber(ARGV[1]) - redis.call('XLEN', KEYS[1]) - redis.call('XLEN', KEYS[2])
if free < #KEYS - 3 then
  free = tonumber(ARGV[1]) - waiting(KEYS[1]) - waiting(KEYS[2])
end
local results, opened = {}, {}
local at = 2
for i = 4, #KEYS do
  local result = -1
  if free > 0 then
    local ttl = math.floor(tonumber(ARGV[at + 2]) + IDEMPOTENCY_AFTER_DEADLINE_MS - now)
    ttl = string.format('%.0f', math.min(math.max(ttl, 1000), 1e12))
    if redis.call('SET', KEYS[i], '1', 'NX', 'PX', ttl) then
      local high = ARGV[at + 4] == 'high'
      local entry = redis.call('XADD', high and KEYS[2] or KEYS[1], '*', 'v', VERSION, 't', 'request', 'id', ARGV[at],
        'due', ARGV[at + 1], 'dl', ARGV[at + 2], 'rt', ARGV[at + 3], 'prio', ARGV[at + 4], 'acc', ARGV[at + 5],
        'tp', ARGV[at + 6], 'd', ARGV[at + 7], 'p', ARGV[at + 8])
      opened[#opened + 1] = ARGV[at + 2]
      opened[#opened + 1] = open_name(high and 'h' or 'n', entry, ARGV[at + 3], ARGV[at])
      free = free - 1
      result = 1
    else
      result = 0
    end
  elseif redis.call('EXISTS', KEYS[i]) == 1 then
    result = 0
  end
  results[#results + 1] = result
  at = at + 9
end
if opened[1] then
  redis.call('ZADD', KEYS[3], unpack(opened))
end
return results
