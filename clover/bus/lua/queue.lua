-- Returns {waiting, pending, admitted ever, age of the first entry in ms} over the request streams.
-- KEYS: request streams.

local waiting, pending, admitted, oldest = 0, 0, 0, nil
for _, stream in ipairs(KEYS) do
  local group = redis.call('XPENDING', stream, GROUP)
  local info = redis.call('XINFO', 'STREAM', stream)
  for i = 1, #info, 2 do
    if info[i] == 'entries-added' then
      admitted = admitted + info[i + 1]
    elseif info[i] == 'first-entry' and info[i + 1] then
      local ms = tonumber(string.match(info[i + 1][1], '^%d+'))
      oldest = math.min(oldest or ms, ms)
    end
  end
  pending = pending + group[1]
  waiting = waiting + redis.call('XLEN', stream) - group[1]
end
return {waiting, pending, admitted, oldest and math.max(0, now_ms() - oldest) or 0}
