"""The two scripts that Redis runs: each is atomic, and one round trip. Their arithmetic is that of `checks`
and `ledger`, operation by operation: doubles give the same results there and here (a test compares)."""

from __future__ import annotations

from typing import Final

from adaptive_lora.serving.quotas.checks import EPOCH_S, SLACK_US

KEEP_MS: Final = 1000
"""How long an account is kept after it is full again."""

_CLOCK: Final = f"""
local time = redis.call('TIME')
local now = (time[1] - {EPOCH_S}) * 1000000 + time[2]
local function exactly(number) return string.format('%.17g', number) end
local function store(key, arrival)
    local ttl = math.max(0, math.ceil((arrival - now) / 1000)) + {KEEP_MS}
    redis.call('SET', key, exactly(arrival), 'PX', string.format('%.0f', ttl))
end
local words = {{}}
for word in string.gmatch(ARGV[1], '%S+') do words[#words + 1] = word end
"""

TAKE: Final = f"""{_CLOCK}
local deadline = tonumber(words[1])
if deadline > 0 and now > deadline then return 'late ' .. exactly(now) end
local out = {{'taken', exactly(now)}}
local readings = {{}}
for i, key in ipairs(KEYS) do
    local kind, a, b = words[4 * i - 2], tonumber(words[4 * i - 1]), tonumber(words[4 * i])
    local reading
    if kind == 'rate' then
        reading = tonumber(redis.call('GET', key) or 0)
        if reading > now + 2 * b then
            reading = now + 2 * b
            store(key, reading)
        end
        if math.max(reading, now) + a - now - b > {SLACK_US} then out[1] = 'denied' end
    elseif kind == 'lease' then
        redis.call('ZREMRANGEBYSCORE', key, '-inf', now)
        reading = redis.call('ZCARD', key)
        if reading >= a then out[1] = 'denied' end
    else
        reading = tonumber(redis.call('GET', key) or 0)
        if reading + a > b then out[1] = 'denied' end
    end
    readings[i] = reading
    out[i + 2] = exactly(reading)
end
if out[1] == 'denied' then return table.concat(out, ' ') end
for i, key in ipairs(KEYS) do
    local kind, a, b = words[4 * i - 2], tonumber(words[4 * i - 1]), tonumber(words[4 * i])
    local c = words[4 * i + 1]
    if kind == 'rate' then
        if a > 0 then store(key, math.max(readings[i], now) + a) end
    elseif kind == 'lease' then
        redis.call('ZADD', key, exactly(now + b), c)
        redis.call('PEXPIRE', key, string.format('%.0f', math.ceil(b / 1000)))
    elseif a > 0 then
        redis.call('INCRBY', key, string.format('%.0f', a))
        redis.call('PEXPIRE', key, c)
    end
end
return table.concat(out, ' ')
"""
"""KEYS: one per check. ARGV: words in one text, which costs clients less than many texts: until when it may
run (the server's time; 0: for ever), then four per check: rate, cost, tolerance, -; lease, limit, lifetime,
lease; budget, n, limit, milliseconds to keep it. Returns words: the outcome, the time, and one reading per
check."""

SETTLE: Final = f"""
if not redis.call('SET', KEYS[1], 1, 'NX', 'PX', 600000) then return 0 end
{_CLOCK}
for i = 2, #KEYS do
    local key, kind, a, b = KEYS[i], words[3 * i - 5], words[3 * i - 4], words[3 * i - 3]
    if kind == 'rate' then
        local back = tonumber(a)
        local arrival = tonumber(redis.call('GET', key) or now)
        if back < 0 then arrival = math.max(arrival, now) end
        store(key, arrival - back)
    elseif kind == 'lease' then
        redis.call('ZREM', key, a)
    else
        if redis.call('INCRBY', key, a) < 0 then redis.call('SET', key, 0) end
        redis.call('PEXPIRE', key, b)
    end
end
return 1
"""
"""KEYS: the batch's own, by which a second delivery is recognised; then one per entry. ARGV: words in one
text, three per entry: rate, microseconds to give back, -; lease, lease, -; budget, change, milliseconds to
keep it."""
