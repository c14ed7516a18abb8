-- Resets the idle time of entries, but only of those that still belong to the consumer: what another has claimed
-- meanwhile stays with the other.
-- KEYS: request streams. ARGV: consumer, then pairs of index in KEYS and entry id.

for at = 2, #ARGV, 2 do
  local stream, id = KEYS[tonumber(ARGV[at])], ARGV[at + 1]
  if redis.call('XPENDING', stream, GROUP, id, id, 1, ARGV[1])[1] then
    redis.call('XCLAIM', stream, GROUP, ARGV[1], 0, id, 'JUSTID')
  end
end
return 1
