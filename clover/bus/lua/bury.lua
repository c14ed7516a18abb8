-- Moves one malformed entry to the dead stream, once however many readers stumble over it.
-- KEYS: source stream, dead stream, and if the request can be answered its reply stream and the open requests.
-- ARGV: entry id, reason, and the values of id d p of the reply and the name among the open requests.

local raw = raw_of(KEYS[1], ARGV[1])
redis.pcall('XACK', KEYS[1], GROUP, ARGV[1])
if redis.call('XDEL', KEYS[1], ARGV[1]) == 0 then
  return 0
end
bury(KEYS[2], KEYS[1], ARGV[1], ARGV[2], raw)
if KEYS[3] then
  reply(KEYS[3], ARGV[3], ARGV[4], ARGV[5])
  redis.call('PEXPIRE', KEYS[3], REPLY_TTL_MS)
  redis.call('ZREM', KEYS[4], ARGV[6])
end
return 1
