-- Delivers new entries without waiting, in the order of the streams, each within its limit.
-- KEYS: request streams, the most urgent first. ARGV: consumer, most entries, then per stream the most that it and the
-- stricter tiers before it may give together (-1: as many as there is room for).
-- Returns {stream, entries}, alternating with nothing else.

local left, strict = tonumber(ARGV[2]), 0
local found = {}
for i, stream in ipairs(KEYS) do
  local limit = tonumber(ARGV[i + 2])
  local room = limit < 0 and left or math.min(left, limit - strict)
  if room > 0 then
    local answer = redis.call('XREADGROUP', 'GROUP', GROUP, ARGV[1], 'COUNT', room, 'STREAMS', stream, '>')
    if answer then
      local entries = answer[1][2]
      left = left - #entries
      if limit >= 0 then strict = strict + #entries end
      found[#found + 1] = {stream, entries}
    end
  end
end
return found
