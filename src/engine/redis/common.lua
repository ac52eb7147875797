-- What the scripts of the log share; it stands in front of each of them.
--
-- Numbers are doubles here: exact up to 2^53, and to be written without an exponent.

-- Seams that are remembered.
local SEAMS = 1000

local function text(number)
  return string.format('%.0f', number)
end

local function is_stream(key)
  return redis.call('TYPE', key).ok == 'stream'
end

-- The last position of a stream, whoever gave it; nil where there is no stream.
local function top(stream)
  local info = is_stream(stream) and redis.call('XINFO', 'STREAM', stream) or {}
  for at = 1, #info, 2 do
    if info[at] == 'last-generated-id' then
      return tonumber(string.match(info[at + 1], '^(%d+)-'))
    end
  end
  return nil
end

-- Removes what others have put behind the last event of the log, whose ids would be in the way of
-- those to come: how many.
local function heal(stream, sequence)
  local removed = 0
  while true do
    local entries = redis.call('XRANGE', stream, '(' .. text(sequence) .. '-0', '+', 'COUNT', 100)
    if #entries == 0 then
      break
    end
    for _, entry in ipairs(entries) do
      removed = removed + redis.call('XDEL', stream, entry[1])
    end
  end
  redis.call('XSETID', stream, text(sequence) .. '-0')
  return removed
end
