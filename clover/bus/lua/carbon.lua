-- Appends to the carbon feed, keeps the newest of each type and sets the checkpoint.
-- KEYS: feed, now, ledger. ARGV: bound, checkpoint, then pairs of type and header.

for at = 3, #ARGV, 2 do
  redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[1], '*', 'v', VERSION, 't', ARGV[at], 'd', ARGV[at + 1])
  redis.call('HSET', KEYS[2], 'v', VERSION, ARGV[at], ARGV[at + 1])
end
redis.call('PEXPIRE', KEYS[2], NOW_TTL_MS)
redis.call('HSET', KEYS[3], 'v', VERSION, 't', 'checkpoint', 'd', ARGV[2])
return 1
