-- Answers open requests that their consumer did not, each once.
-- KEYS: open requests, the request streams, then reply streams.
-- ARGV: number of request streams, then per request: name among the open requests, index of its stream in KEYS, entry id, index of its reply stream in
-- KEYS, and id and d of the reply. Returns per request: 1 if it was answered by this call, else 0.

local results = {}
for at = 2, #ARGV, 6 do
  local open = redis.call('ZREM', KEYS[1], ARGV[at])
  if open == 1 then
    local stream = KEYS[tonumber(ARGV[at + 1])]
    redis.pcall('XACK', stream, GROUP, ARGV[at + 2])
    redis.call('XDEL', stream, ARGV[at + 2])
    reply(KEYS[tonumber(ARGV[at + 3])], ARGV[at + 4], ARGV[at + 5], '')
  end
  results[#results + 1] = open
end
for i = 2 + tonumber(ARGV[1]), #KEYS do
  redis.call('PEXPIRE', KEYS[i], REPLY_TTL_MS)
end
return results
