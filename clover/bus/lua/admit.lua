-- Appends requests to the request streams, each id once, while fewer than the bound are waiting.
-- KEYS: open requests, plan, the request streams (high priority, tiers from the strictest to the second, normal), then
-- one idempotency key per request.
-- ARGV: bound, number of request streams, then per request the values of id due dl rt prio acc tp d p.
-- Returns per request: 1 admitted, 0 duplicate, -1 full, -2 the plan holds no variant as accurate as it asks.

local streams = tonumber(ARGV[2])
local high, normal = 3, 2 + streams

local unread = {}
local function waiting(place)
  if not unread[place] then
    local stream = KEYS[place]
    local count = redis.call('XLEN', stream)
    if count > 0 then
      local pending = redis.pcall('XPENDING', stream, GROUP)
      if pending.err then
        redis.call('XGROUP', 'CREATE', stream, GROUP, '0')
      else
        count = count - pending[1]
      end
    end
    unread[place] = count
  end
  return unread[place]
end

-- The tiers of the plan in force: accuracy and bound of each, from the first. Without a plan nobody is kept apart.
local tiers
local function place_of(priority, accuracy)
  if accuracy == '' then return priority == 'high' and high or normal end
  if not tiers then
    tiers = {}
    for least, most in string.gmatch(redis.call('HGET', KEYS[2], 'tiers') or '', '(%S+) (%S+)') do
      tiers[#tiers + 1] = {tonumber(least), tonumber(most)}
    end
  end
  local asked = tonumber(accuracy)
  for tier, limits in ipairs(tiers) do
    if limits[1] >= asked then
      if tier == 1 then return priority == 'high' and high or normal end
      if limits[2] <= 0 then return nil, -2 end
      local strict = 0
      for stricter = tier, #tiers do strict = strict + waiting(normal + 1 - stricter) end
      if strict >= limits[2] then return nil, -1 end
      return normal + 1 - tier
    end
  end
  if tiers[1] then return nil, -2 end
  return priority == 'high' and high or normal
end

local now = now_ms()
local free = tonumber(ARGV[1])
for place = high, normal do free = free - waiting(place) end
local results, opened = {}, {}
local at = 3
for i = normal + 1, #KEYS do
  local result, place = 0, nil
  if redis.call('EXISTS', KEYS[i]) == 0 then
    result = -1
    if free > 0 then place, result = place_of(ARGV[at + 4], ARGV[at + 5]) end
  end
  if place then
    local ttl = math.floor(tonumber(ARGV[at + 2]) + IDEMPOTENCY_AFTER_DEADLINE_MS - now)
    redis.call('SET', KEYS[i], '1', 'PX', string.format('%.0f', math.min(math.max(ttl, 1000), 1e12)))
    local entry = redis.call('XADD', KEYS[place], '*', 'v', VERSION, 't', 'request', 'id', ARGV[at],
      'due', ARGV[at + 1], 'dl', ARGV[at + 2], 'rt', ARGV[at + 3], 'prio', ARGV[at + 4], 'acc', ARGV[at + 5],
      'tp', ARGV[at + 6], 'd', ARGV[at + 7], 'p', ARGV[at + 8])
    opened[#opened + 1] = ARGV[at + 2]
    opened[#opened + 1] = open_name(kind_of(KEYS[place]), entry, ARGV[at + 3], ARGV[at])
    unread[place] = unread[place] + 1
    free = free - 1
    result = 1
  end
  results[#results + 1] = result
  at = at + 9
end
if opened[1] then
  redis.call('ZADD', KEYS[1], unpack(opened))
end
return results
