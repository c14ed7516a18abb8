-- Removes consumers that hold nothing and have not been heard of for a while; checked and done in one step.
-- KEYS: request streams. ARGV: least silence in ms. Returns the names that were removed.

local removed = {}
for _, stream in ipairs(KEYS) do
  for _, info in ipairs(redis.call('XINFO', 'CONSUMERS', stream, GROUP)) do
    local consumer = {}
    for i = 1, #info, 2 do consumer[info[i]] = info[i + 1] end
    if consumer.name ~= RELEASED and consumer.pending == 0 and consumer.idle >= tonumber(ARGV[1]) then
      redis.call('XGROUP', 'DELCONSUMER', stream, GROUP, consumer.name)
      removed[#removed + 1] = consumer.name
    end
  end
end
return removed
