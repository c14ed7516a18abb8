-- Hands back everything that a consumer holds and removes the consumer, in one step: removing one that holds entries
-- would lose them.
-- KEYS: request streams. ARGV: consumer. Returns how many entries were handed back.

local count = 0
for _, stream in ipairs(KEYS) do
  repeat
    local held = redis.call('XPENDING', stream, GROUP, '-', '+', 1000, ARGV[1])
    for _, pending in ipairs(held) do
      if not hand_back(stream, pending[1], pending[4] - 1) then
        -- Its entry was trimmed: acknowledged, so that the sweeper takes it for gone and answers it.
        redis.call('XACK', stream, GROUP, pending[1])
      end
      count = count + 1
    end
  until not held[1]
  redis.call('XGROUP', 'DELCONSUMER', stream, GROUP, ARGV[1])
end
return count
