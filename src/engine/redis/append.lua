-- Appends publishes, each whole or not at all, in the order in which they come.
--
-- KEYS: log, meta, the stream of what is to be published; then the idempotency keys, one for each
-- publish that has one, in their order.
-- ARGV: the identity and the log that were claimed, the lifetime of keys in milliseconds. Then for
-- each publish: the id of its entry in that stream ('' for none), the digest of its request where it
-- has a key ('' where not), how many events it has; and for each of these its kind ('e', 'x' where it is
-- ephemeral, 'n' for a note), its record and its trace ('' for none).
--
-- Answers with 'done' and for each publish: what became of it ('new', 'known', 'conflict', 'moved'),
-- its log, its first position and its count; or with 'stale' where nothing was done, since the log
-- has to be claimed again.
--
-- Nothing here may fail after the first write, for a script is not taken back: hence each `pcall`, for
-- keys that others may have made into something else.
local log, meta, ingest = KEYS[1], KEYS[2], KEYS[3]
local state = redis.call('HMGET', meta, 'identity', 'log', 'sequence')
if state[1] ~= ARGV[1] or state[2] ~= ARGV[2] or not is_stream(log) then
  return {'stale'}
end
local name, lifetime = ARGV[2], ARGV[3]
local sequence = tonumber(state[3])
local next_key, at = 4, 4
local answers = {'done'}

local function put(kind, record, trace)
  local id = text(sequence + 1) .. '-0'
  local fields = {kind, record}
  if trace ~= '' then
    fields = {kind, record, 't', trace}
  end
  local added = redis.pcall('XADD', log, id, unpack(fields))
  if type(added) == 'table' and added.err then
    heal(log, sequence)
    redis.call('XADD', log, id, unpack(fields))
  end
  sequence = sequence + 1
end

local function tell(outcome, of, first, count)
  for _, word in ipairs({outcome, of, first, count}) do
    answers[#answers + 1] = word
  end
end

while at <= #ARGV do
  local entry, request, count = ARGV[at], ARGV[at + 1], tonumber(ARGV[at + 2])
  local events = at + 3
  at = events + 3 * count
  local key, before = nil, nil
  if request ~= '' then
    key = KEYS[next_key]
    next_key = next_key + 1
    before = redis.pcall('GET', key)
  end
  -- Whoever removes an entry from the stream appends it, so that it is appended once.
  if entry ~= '' and redis.pcall('XDEL', ingest, entry) ~= 1 then
    tell('moved', name, '0', '0')
  elseif type(before) == 'string' then
    local digest, of, first, given = string.match(before, '^(%x+) ([%w_]+) (%d+) (%d+)$')
    tell(digest == request and 'known' or 'conflict', of or name, first or '0', given or '0')
  else
    local first = text(sequence + 1)
    for event = events, at - 1, 3 do
      put(ARGV[event], ARGV[event + 1], ARGV[event + 2])
    end
    if key then
      local value = request .. ' ' .. name .. ' ' .. first .. ' ' .. text(count)
      redis.call('SET', key, value, 'PX', lifetime)
    end
    tell('new', name, first, text(count))
  end
end
redis.call('HSET', meta, 'sequence', text(sequence))
return answers
