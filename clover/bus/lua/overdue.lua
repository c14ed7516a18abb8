-- Finds open requests that nobody will answer any more: past their deadline, or gone from their stream.
-- KEYS: open requests, then the request streams. ARGV: grace after the deadline in ms, most of them.
-- Returns names among the open requests and whether the entry is still there (1 or 0), alternating; and, if the streams
-- hold more entries than requests are open, {stream, its first entries} of each: some were never admitted.

local streams = {}
for i = 2, #KEYS do streams[kind_of(KEYS[i])] = KEYS[i] end
local limit = tonumber(ARGV[2])
local found = {}

local function there(name)
  local kind, entry = string.match(name, '^(%w) (%S+)')
  return redis.call('XRANGE', streams[kind], entry, entry)[1] ~= nil, streams[kind], entry
end

local function note(name, is_there)
  found[#found + 1] = name
  found[#found + 1] = is_there and 1 or 0
end

for _, name in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now_ms() - ARGV[1], 'LIMIT', 0, limit)) do
  note(name, (there(name)))
end
-- More requests are open than there are entries: somebody trimmed a stream. What a consumer still holds it may answer.
local kept, open = 0, redis.call('ZCARD', KEYS[1])
for i = 2, #KEYS do kept = kept + redis.call('XLEN', KEYS[i]) end
if not found[1] and open > kept then
  for _, name in ipairs(redis.call('ZRANGE', KEYS[1], 0, VANISHED_SCAN - 1)) do
    local is_there, stream, entry = there(name)
    if not is_there and #found < 2 * limit then
      local held = redis.pcall('XPENDING', stream, GROUP, entry, entry, 1)
      if held.err or not held[1] then note(name, false) end
    end
  end
end
local first = {}
for i = 2, kept > open and #KEYS or 1 do
  local entries = redis.call('XRANGE', KEYS[i], '-', '+', 'COUNT', STRANGERS_SCAN)
  if entries[1] then first[#first + 1] = {KEYS[i], entries} end
end
return {found, first}
