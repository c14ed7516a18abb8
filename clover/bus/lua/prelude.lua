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
