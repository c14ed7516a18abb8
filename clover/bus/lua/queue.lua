-- Returns {waiting, pending, admitted ever, age of the first entry in ms} over the request streams.
-- KEYS: request streams. Only reads, so that who may only look may ask; a stream that is not there is empty.

local waiting, pending, admitted, oldest = 0, 0, 0, nil
for _, stream in ipairs(KEYS) do
  local info = redis.pcall('XINFO', 'STREAM', stream)
  if not info.err then
    for i = 1, #info, 2 do
      if info[i] == 'entries-added' then
        admitted = admitted + info[i + 1]
      elseif info[i] == 'first-entry' and info[i + 1] then
        local ms = tonumber(string.match(info[i + 1][1], '^%d+'))
        oldest = math.min(oldest or ms, ms)
      end
    end
    local group = redis.pcall('XPENDING', stream, GROUP)
    local held = group.err and 0 or group[1]
    pending = pending + held
    waiting = waiting + redis.call('XLEN', stream) - held
  end
end
return {waiting, pending, admitted, oldest and math.max(0, now_ms() - oldest) or 0}
