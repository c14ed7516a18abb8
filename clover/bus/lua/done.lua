-- Acknowledges, deletes and answers; per request the first acknowledgement wins, so that there is one reply.
-- KEYS: dead stream, open requests, then the request streams and reply streams of these requests.
-- ARGV per request: index of its stream in KEYS, entry id, index of its reply stream in KEYS, and the values of
-- id d p of the reply, and why the request goes to the dead stream (empty: it does not).
-- Returns per request: 1 if it was answered by this call, else 0.

local results, closed, deleted, answered = {}, {}, {}, {}
for at = 1, #ARGV, 7 do
  local place, entry, reason = tonumber(ARGV[at]), ARGV[at + 1], ARGV[at + 6]
  local raw = reason ~= '' and raw_of(KEYS[place], entry)
  local first = redis.call('XACK', KEYS[place], GROUP, entry)
  local to = tonumber(ARGV[at + 2])
  if not answered[to] then answered[to] = string.match(KEYS[to], ':rep:(.*)$') end
  if first == 1 then
    if not deleted[place] then deleted[place] = {} end
    deleted[place][#deleted[place] + 1] = entry
    closed[#closed + 1] = open_name(kind_of(KEYS[place]), entry, answered[to], ARGV[at + 3])
    if raw then bury(KEYS[1], KEYS[place], entry, reason, raw) end
    reply(KEYS[to], ARGV[at + 3], ARGV[at + 4], ARGV[at + 5])
  end
  results[#results + 1] = first
end
-- One deletion for all is half the price of one each; the script is atomic, so nobody sees what lies between.
for place, entries in pairs(deleted) do
  redis.call('XDEL', KEYS[place], unpack(entries))
end
if closed[1] then
  redis.call('ZREM', KEYS[2], unpack(closed))
end
for to in pairs(answered) do
  redis.call('PEXPIRE', KEYS[to], REPLY_TTL_MS)
end
return results
