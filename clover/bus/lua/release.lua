-- Hands entries back that a consumer has not begun, so that the next claim takes them at once.
-- KEYS: request streams. ARGV: consumer, then triples of index in KEYS, entry id and times delivered.
-- This delivery does not count against the request.

for at = 2, #ARGV, 3 do
  local stream, id = KEYS[tonumber(ARGV[at])], ARGV[at + 1]
  if redis.call('XPENDING', stream, GROUP, id, id, 1, ARGV[1])[1] then
    hand_back(stream, id, ARGV[at + 2] - 1)
  end
end
return 1
