-- Under the lease: replaces the plan record; the epoch stays.
-- KEYS: lease, epoch, plan. ARGV: holder, plan, its tiers. Returns 1, or 0 without the lease.

if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
redis.call('HSET', KEYS[3], 'v', VERSION, 't', 'plan', 'epoch', redis.call('GET', KEYS[2]) or '0', 'd', ARGV[2],
  'tiers', ARGV[3])
return 1
