-- By hand, without the lease: raises the epoch and sends one node its target; the plan stays as it is.
-- KEYS: epoch, target stream. ARGV: epoch to be above, target. Returns the epoch.

local epoch = redis.call('INCR', KEYS[1])
local above = tonumber(ARGV[1])
if epoch <= above then
  epoch = above + 1
  redis.call('SET', KEYS[1], string.format('%.0f', epoch))
end
redis.call('XADD', KEYS[2], 'MAXLEN', '~', TARGET_MAXLEN, '*',
  'v', VERSION, 't', 'target', 'epoch', epoch, 'd', ARGV[2])
return epoch
