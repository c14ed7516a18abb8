-- Appends messages to a feed.
-- KEYS: feed. ARGV: bound, then pairs of type and header.

for at = 2, #ARGV, 2 do
  redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[1], '*', 'v', VERSION, 't', ARGV[at], 'd', ARGV[at + 1])
end
return 1
