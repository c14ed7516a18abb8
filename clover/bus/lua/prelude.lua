local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- Returns the raw fields of an entry, or an empty list if it is gone.
local function raw_of(stream, id)
  local found = redis.call('XRANGE', stream, id, id)
  return found[1] and found[1][2] or {}
end

-- Appends to the dead stream, with the raw fields of the original cut to 4 KiB in all.
local function bury(dead, stream, id, reason, raw)
  local entry = {'stream', stream, 'id', id, 'reason', reason}
  local room = 4096
  for i = 1, #raw, 2 do
    local name = 'raw:' .. string.sub(raw[i], 1, 64)
    room = room - #name
    if room <= 0 then break end
    local value = string.sub(raw[i + 1], 1, room)
    room = room - #value
    entry[#entry + 1] = name
    entry[#entry + 1] = value
  end
  redis.call('XADD', dead, 'MAXLEN', '~', DEAD_MAXLEN, '*', unpack(entry))
end

local function reply(stream, id, header, payload)
  redis.call('XADD', stream, 'MAXLEN', '~', REPLY_MAXLEN, '*',
    'v', VERSION, 't', 'reply', 'id', id, 'd', header, 'p', payload)
end

-- What the names of open requests say of a stream: h high priority, n normal, 2 to 8 a tier.
local function kind_of(stream)
  local rest = string.match(stream, ':req:(.*)$')
  if not rest then return 'n' end
  return rest == 'hi' and 'h' or string.sub(rest, 2)
end

-- Name of a request among the open ones: kind of its stream, entry id, producer, request id (which may hold blanks).
local function open_name(kind, entry, producer, request)
  return kind .. ' ' .. entry .. ' ' .. producer .. ' ' .. request
end

-- Gives an entry to nobody, idle for so long that every claim takes it; false if the entry is gone.
local function hand_back(stream, id, times)
  return redis.call('XCLAIM', stream, GROUP, RELEASED, 0, id, 'IDLE', RELEASED_IDLE_MS,
    'RETRYCOUNT', math.max(0, times), 'JUSTID')[1]
end
