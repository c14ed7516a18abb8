-- Removes consumers that hold nothing and have not been heard of for a while; checked and done in one step.
-- KEYS: request streams. ARGV: least silence in ms. Returns the names that were removed.

local seen = {}
for _, stream in ipairs(KEYS) do
  for _, info in ipairs(redis.call('XINFO', 'CONSUMERS', stream, GROUP)) do
    local consumer = {}
    for i = 1, #info, 2 do consumer[info[i]] = info[i + 1] end
    local known = seen[consumer.name] or {pending = 0, idle = consumer.idle}
    known.pending = known.pending + consumer.pending
    known.idle = math.min(known.idle, consumer.idle)
    seen[consumer.name] = known
  end
end
local removed = {}
for name, consumer in pairs(seen) do
  if name ~= RELEASED and consumer.pending == 0 and consumer.idle >= tonumber(ARGV[1]) then
    for _, stream in ipairs(KEYS) do
      redis.call('XGROUP', 'DELCONSUMER', stream, GROUP, name)
    end
    removed[#removed + 1] = name
  end
end
return removed
