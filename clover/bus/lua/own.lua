-- Returns {stream, id, times delivered, fields} of every entry that is pending for one consumer.
-- KEYS: request streams. ARGV: consumer.
-- Reading the history with XREADGROUP would count as another delivery; this does not.

local entries = {}
for _, stream in ipairs(KEYS) do
  for _, pending in ipairs(redis.call('XPENDING', stream, GROUP, '-', '+', 100000, ARGV[1])) do
    local found = redis.call('XRANGE', stream, pending[1], pending[1])
    if found[1] then
      entries[#entries + 1] = {stream, pending[1], pending[4], found[1][2]}
    end
  end
end
return entries
