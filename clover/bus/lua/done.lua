-- Acknowledges, deletes and answers; per request the first acknowledgement wins, so that there is one reply.
-- KEYS: dead stream, normal stream, high stream, then reply streams.
-- ARGV per request: index of its stream in KEYS, entry id, index of its reply stream in KEYS, and the values of
-- id d p of the reply, and why the request goes to the dead stream (empty: it does not).
-- Returns per request: 1 if it was answered by this call, else 0.

local results = {}
for at = 1, #ARGV, 7 do
  local stream, entry, reason = KEYS[tonumber(ARGV[at])], ARGV[at + 1], ARGV[at + 6]
  local raw = reason ~= '' and raw_of(stream, entry)
  local first = redis.call('XACK', stream, GROUP, entry)
  if first == 1 then
    redis.call('XDEL', stream, entry)
    if raw then bury(KEYS[1], stream, entry, reason, raw) end
    reply(KEYS[tonumber(ARGV[at + 2])], ARGV[at + 3], ARGV[at + 4], ARGV[at + 5])
  end
  results[#results + 1] = first
end
for i = 4, #KEYS do
  redis.call('PEXPIRE', KEYS[i], REPLY_TTL_MS)
end
return results
