-- Has a node append to the log from this server process on, or finds that the log has lost events
-- and begins another one.
--
-- KEYS: log, meta, seams, trims.
-- ARGV: the server's identity, the log that the node knows ('' for none), the last position that it
-- has seen, a name for a new log, whether the server has all that it ever acknowledged (1 or 0),
-- whether the node knows that events of that log are lost (1 or 0), the newest format it can read, and
-- by how much positions jump where nobody knows up to where they have been given: by more than a server
-- loses at once, and each time by another number, for a server may lose an earlier jump too.
--
-- Answers with what was done ('kept', 'seam', 'begun', 'lost'), the log, its last position, up to
-- where it is trimmed, how many entries of others were removed, and the seams; or with 'newer' and
-- the log's format.
local identity, known, seen, name = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4]
local has_all, is_lost, format = ARGV[5] == '1', ARGV[6] == '1', tonumber(ARGV[7])
local jump = tonumber(ARGV[8])

local meta = redis.call('HMGET', KEYS[2], 'format', 'log', 'sequence', 'identity', 'trimmed')
if meta[1] and tonumber(meta[1]) > format then
  return {'newer', meta[1]}
end
local log, sequence, trimmed = meta[2], tonumber(meta[3] or '0'), tonumber(meta[5] or '0')
local seams = redis.call('LRANGE', KEYS[3], 0, -1)
local removed = 0

local function answer(outcome)
  return {outcome, log, text(sequence), text(trimmed), removed, seams}
end

-- Positions that were given before the server lost its end, if ever, and stand for nothing.
local function is_in_hole(position)
  for _, seam in ipairs(seams) do
    local from, to = string.match(seam, '^(%d+) (%d+)$')
    if position > tonumber(from) and position < tonumber(to) then
      return true
    end
  end
  return false
end

local function begin(outcome)
  local last = top(KEYS[1]) or 0
  -- What others have put there may be numbered by a clock, or without any sense.
  if log or last >= 4503599627370496 then
    last = 0
  end
  local position = math.max(sequence, seen, last)
  if position > 0 then
    position = position + jump
  end
  redis.call('DEL', KEYS[1], KEYS[2], KEYS[3], KEYS[4])
  -- There is no other way to make a stream without an entry.
  redis.call('XGROUP', 'CREATE', KEYS[1], 'begin', '$', 'MKSTREAM')
  redis.call('XGROUP', 'DESTROY', KEYS[1], 'begin')
  if position > 0 then
    redis.call('XSETID', KEYS[1], text(position) .. '-0')
  end
  redis.call('HSET', KEYS[2], 'format', format, 'log', name, 'sequence', text(position),
    'identity', identity, 'trimmed', text(position))
  log, sequence, trimmed, seams = name, position, position, {}
  return answer(outcome)
end

-- Goes on so far behind the last position that none is given twice. Those who follow the log find an
-- entry of it.
local function seam()
  local to = math.max(sequence, seen) + jump
  local entry = text(sequence) .. ' ' .. text(to)
  redis.call('XADD', KEYS[1], text(to) .. '-0', 's', text(sequence))
  redis.call('RPUSH', KEYS[3], entry)
  redis.call('LTRIM', KEYS[3], -SEAMS, -1)
  redis.call('HSET', KEYS[2], 'sequence', text(to), 'identity', identity)
  seams[#seams + 1] = entry
  sequence = to
  return answer('seam')
end

if not log then
  return begin(known == '' and 'begun' or 'lost')
end
local is_known = known == log
local last = top(KEYS[1])
if not last or last < sequence then
  return begin('lost')
end
if is_known and (is_lost or seen > sequence or is_in_hole(seen)) then
  return begin('lost')
end
local is_other = identity ~= meta[4]
-- Nobody can tell what this server process does not have any more.
if is_other and not is_known and not has_all then
  return begin('lost')
end
if last > sequence or #redis.call('XRANGE', KEYS[1], '(' .. text(sequence) .. '-0', '+', 'COUNT', 1) > 0 then
  removed = heal(KEYS[1], sequence)
end
-- A node never goes back to positions that it has passed in another log.
if is_other or (not is_known and seen >= sequence and seen > 0) then
  return seam()
end
return answer('kept')
