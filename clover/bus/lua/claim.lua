-- Takes over entries that nobody has touched for a while.
-- KEYS: request streams, the most urgent first. ARGV: consumer, least idle time in ms, most entries, then per stream
-- the most that it and the stricter tiers before it may give together (-1: as many as there is room for).
-- Returns {entries as {stream, id, times delivered, fields}, ids that were pending but no longer exist}.

local entries, vanished, strict = {}, {}, 0
for i, stream in ipairs(KEYS) do
  local cursor, limit = '0-0', tonumber(ARGV[i + 3])
  repeat
    local room = tonumber(ARGV[3]) - #entries
    if limit >= 0 then room = math.min(room, limit - strict) end
    if room <= 0 then break end
    local claimed = redis.call('XAUTOCLAIM', stream, GROUP, ARGV[1], ARGV[2], cursor, 'COUNT', room)
    cursor = claimed[1]
    for _, entry in ipairs(claimed[2]) do
      local pending = redis.call('XPENDING', stream, GROUP, entry[1], entry[1], 1)
      entries[#entries + 1] = {stream, entry[1], pending[1][4], entry[2]}
    end
    if limit >= 0 then strict = strict + #claimed[2] end
    for _, id in ipairs(claimed[3]) do
      vanished[#vanished + 1] = id
    end
  until cursor == '0-0'
end
return {entries, vanished}
