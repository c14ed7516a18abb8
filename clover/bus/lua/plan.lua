-- Under the lease: raises the epoch, sets the plan and sends the targets.
-- KEYS: lease, epoch, plan, then target streams. ARGV: holder, epoch to be above, plan, its tiers (accuracy and bound
-- of each, separated by blanks), then one target per stream.
-- Returns the epoch, or false without the lease.

if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return false
end
local epoch = redis.call('INCR', KEYS[2])
local above = tonumber(ARGV[2])
if epoch <= above then
  -- The counter was lost with the server's data; nodes remember epochs that it had reached.
  epoch = above + 1
  redis.call('SET', KEYS[2], string.format('%.0f', epoch))
end
redis.call('HSET', KEYS[3], 'v', VERSION, 't', 'plan', 'epoch', epoch, 'd', ARGV[3], 'tiers', ARGV[4])
for i = 4, #KEYS do
  redis.call('XADD', KEYS[i], 'MAXLEN', '~', TARGET_MAXLEN, '*',
    'v', VERSION, 't', 'target', 'epoch', epoch, 'd', ARGV[i + 1])
end
return epoch
