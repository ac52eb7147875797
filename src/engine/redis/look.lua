-- Tells how the log is, and lets go of its oldest events where that is asked for.
--
-- KEYS: log, meta, trims.
-- ARGV: the node's log; up to where it is to be trimmed ('' for not at all), and what was trimmed of
-- each topic up to there, for nodes that start later.
--
-- Answers with the identity, the log, its last position, up to where it is trimmed, and whether its
-- stream is there (1 or 0).
local meta = redis.call('HMGET', KEYS[2], 'identity', 'log', 'sequence', 'trimmed')
local there = is_stream(KEYS[1])
local until_now = tonumber(meta[4] or '0')
if ARGV[2] ~= '' and there and meta[2] == ARGV[1] and tonumber(ARGV[2]) > until_now then
  -- A server that is out of memory refuses a script whose first write may take some, and this one is
  -- what gives memory back.
  redis.call('DEL', KEYS[3])
  redis.call('HSET', KEYS[2], 'trimmed', ARGV[2])
  redis.call('SET', KEYS[3], ARGV[2] .. ' ' .. ARGV[3])
  redis.call('XTRIM', KEYS[1], 'MINID', '~', text(tonumber(ARGV[2]) + 1) .. '-0', 'LIMIT', 0)
  until_now = tonumber(ARGV[2])
end
return {meta[1] or '', meta[2] or '', meta[3] or '0', text(until_now), there and 1 or 0}
