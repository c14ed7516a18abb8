-- Under the lease: raises the epoch, sets the plan and sends the targets.
-- KEYS: lease, epoch, plan, then target streams. ARGV: holder, plan, then one target per stream.
-- Returns the epoch, or false without the lease.

if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return false
end
local epoch = redis.call('INCR', KEYS[2])
redis.call('HSET', KEYS[3], 'v', VERSION, 't', 'plan', 'epoch', epoch, 'd', ARGV[2])
for i = 4, #KEYS do
  redis.call('XADD', KEYS[i], 'MAXLEN', '~', TARGET_MAXLEN, '*',
    'v', VERSION, 't', 'target', 'epoch', epoch, 'd', ARGV[i - 1])
end
return epoch
